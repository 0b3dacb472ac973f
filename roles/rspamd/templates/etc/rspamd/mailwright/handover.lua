{% import 'header.j2' as header %}{{ header.dashes() }}
-- After a reload, the former workers finish their open SMTP sessions. Rspamd 3.4 does not count those: it ends a former worker within a
-- second, and Postfix answers 451 to the clients. This finish script keeps such a worker while it has sessions, for at most twice the
-- task_timeout (at least 10 s), when Rspamd ends it anyway. Rspamd 3.12 counts its sessions itself.
local rspamd_tcp = require "rspamd_tcp"
local has_ffi, ffi = pcall(require, "ffi")

local MILTER_PORT = 11332
local AF_INET, SIGUSR2 = 2, 12

if has_ffi then
  ffi.cdef [[
    typedef struct { uint16_t family; uint8_t port[2]; uint8_t rest[124]; } mailwright_address;
    int getsockname(int fd, mailwright_address *address, uint32_t *length);
    int getpeername(int fd, mailwright_address *address, uint32_t *length);
  ]]
end

-- Rspamd ends workers with SIGUSR2 after a reload and with SIGTERM at a stop, which must not wait. A worker blocks the signal it got.
local function replaced()
  local file = io.open("/proc/self/status")
  local blocked = file and file:read("*a"):match("SigBlk:%s+(%x+)")
  if file then
    file:close()
  end
  return blocked ~= nil and bit.band(tonumber(blocked:sub(-8), 16), bit.lshift(1, SIGUSR2 - 1)) ~= 0
end

-- True if Postfix is connected to this process: one of its sockets has the milter's port and a peer.
local function has_sessions()
  local address, length = ffi.new("mailwright_address"), ffi.new("uint32_t[1]")
  local function is_at_port(fd)
    length[0] = ffi.sizeof(address)
    return ffi.C.getsockname(fd, address, length) == 0 and address.family == AF_INET
      and address.port[0] * 256 + address.port[1] == MILTER_PORT
  end
  local function has_peer(fd)
    length[0] = ffi.sizeof(address)
    return ffi.C.getpeername(fd, address, length) == 0
  end
  for fd = 3, 1023 do
    if is_at_port(fd) and has_peer(fd) then
      return true
    end
  end
  return false
end

-- Only a pending request keeps a worker, and Lua has no timer that counts as one. A connection to Redis on which nothing is sent serves as
-- the timer: it times out. While Redis is down, the worker ends at once, as without this script.
local function wait(task)
  if has_sessions() then
    rspamd_tcp.request({
      task = task,
      host = "/run/redis/redis-server.sock",
      timeout = 0.5,
      callback = function(err)
        if tostring(err):match("timeout") then
          wait(task)
        end
      end,
    })
  end
end

if has_ffi then
  rspamd_config:register_finish_script(function(task)
    if replaced() then
      wait(task)
    end
  end)
end

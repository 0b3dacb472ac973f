{% import 'header.j2' as header %}{{ header.dashes() }}
-- mail_attachments: files that no mail may bring, known by their names and by what they hold, in archives too. What is in a file Rspamd's
-- own lua_magic says; archives it only lists, so zip, gzip and tar are opened here.
local lua_magic = require "lua_magic"
local rspamd_logger = require "rspamd_logger"
local rspamd_text = require "rspamd_text"
local util = require "rspamd_util"

-- What a message may make us read.
local DEPTH, FILES, BYTES = 4, 1000, 64 * 1024 * 1024
-- Compressed bytes that are enough to know a file.
local HEAD = 4096

local function set(words)
  local found = {}
  for word in words:gmatch("%S+") do
    found[word] = true
  end
  return found
end

local EXTENSIONS = {
  executables = set("apk app application appref-ms appx appxbundle class com cpl deb dll dmg drv exe gadget jar jnlp lnk msi msix"
    .. " msixbundle msp mst msu ocx pif pkg rpm scf scr sys vxd wll xbap xll"),
  scripts = set("bash bat cmd csh hta inf ins isp js jse ksh msh pl ps1 ps1xml ps2 psc1 psd1 psm1 py pyw rb reg sct sh shb shs url vb vbe vbs"
    .. " website ws wsc wsf wsh zsh"),
  macros = set("docm dotm potm ppam ppsm pptm sldm xlam xlsb xlsm xltm"),
  archives = set("7z ace alz arj bz2 cab cpio egg gz img iso lha lz lz4 lzh lzma rar tar tbz2 tgz txz vhd vhdx wim xar xz z zip zoo zst"),
}
-- By the kinds that lua_magic knows.
local KINDS = {apk = "executables", class = "executables", elf = "executables", exe = "executables", jar = "executables",
  lnk = "executables", msi = "executables"}
for kind, type in pairs(lua_magic.types) do
  if type.type == "archive" and not KINDS[kind] and kind ~= "epub" then
    KINDS[kind] = "archives"
  end
end
local MACH_O = {["\254\237\250\206"] = true, ["\254\237\250\207"] = true, ["\206\250\237\254"] = true, ["\207\250\237\254"] = true}
local VBA = ("_VBA_PROJECT"):gsub(".", "%0\0")

local function u16(text, at)
  local a, b = text:byte(at, at + 1)
  return a + b * 256
end

local function u32(text, at)
  return u16(text, at) + u16(text, at + 2) * 65536
end

-- As a string; nil where there is less.
local function slice(content, from, length)
  if from < 1 or length < 1 or from + length - 1 > #content then
    return nil
  end
  return content:span(from, length):str()
end

local function head(content, length)
  return slice(content, 1, math.min(#content, length)) or ""
end

-- A zip's compressed data, with the header that gzip puts before the same.
local function inflate(data, limit)
  return util.gzip_decompress("\31\139\8\0\0\0\0\0\0\255" .. data, limit)
end

return function(N, common)
  local policy = common.load("policy.json").attachments or {}
  local refused, extensions, types = {}, {}, {}
  for into, list in pairs({[refused] = policy.refuse, [extensions] = policy.extensions, [types] = policy.types}) do
    for _, word in ipairs(list) do
      into[word] = true
    end
  end
  if not next(refused) and not next(extensions) and not next(types) then
    return
  end

  local judge

  -- Directory of a zip archive: {name, encrypted, method, from, size} each; nil where it has none that makes sense.
  local function zip_entries(content)
    local start = math.max(1, #content - 65557 + 1)
    local tail = slice(content, start, #content - start + 1) or ""
    local at = tail:match(".*()PK\5\6")
    if not at or #tail < at + 21 then
      return nil
    end
    local count, size, offset = u16(tail, at + 10), u32(tail, at + 12), u32(tail, at + 16)
    -- A program may stand before the archive.
    local base = start + at - 2 - size - offset
    local directory = base >= 0 and count > 0 and slice(content, base + offset + 1, size)
    if not directory then
      return nil
    end
    local entries, position = {}, 1
    for _ = 1, math.min(count, FILES + 1) do
      if directory:sub(position, position + 3) ~= "PK\1\2" or #directory < position + 45 then
        return nil
      end
      local name_size = u16(directory, position + 28)
      local from = base + u32(directory, position + 42) + 1
      local header = slice(content, from, 30)
      if not header or header:sub(1, 4) ~= "PK\3\4" then
        return nil
      end
      entries[#entries + 1] = {
        name = directory:sub(position + 46, position + 45 + name_size),
        encrypted = u16(directory, position + 8) % 2 == 1,
        method = u16(directory, position + 10),
        size = u32(directory, position + 20),
        from = from + 30 + u16(header, 27) + u16(header, 29),
      }
      position = position + 46 + name_size + u16(directory, position + 30) + u16(directory, position + 32)
    end
    return entries
  end

  local function unreadable(name)
    if refused.encrypted_archives then
      return "encrypted_archives", name
    end
  end

  -- One more file is looked at, of so many bytes; false when that is too much.
  local function spend(budget, bytes)
    budget.files, budget.bytes = budget.files - 1, budget.bytes - bytes
    return budget.files >= 0 and budget.bytes >= 0
  end

  local function judge_zip(name, content, budget, depth)
    local entries = zip_entries(content)
    if not entries then
      return unreadable(name)
    end
    local document, kind = false, "zip"
    for _, entry in ipairs(entries) do
      local inner = entry.name:lower()
      document = document or inner == "[content_types].xml" or inner == "mimetype"
      if inner == "meta-inf/manifest.mf" or inner == "androidmanifest.xml" then
        kind = "jar"
      end
      if refused.macros and (inner:match("vbaproject%.bin$") or inner:match("^xl/macrosheets/") or inner:match("^basic/script%-lc")) then
        return "macros", name
      end
    end
    local class = KINDS[kind]
    if refused[class] and not (document and class == "archives") then
      return class, name
    end
    for _, entry in ipairs(entries) do
      local class, what = judge(entry.name, nil, budget, depth + 1)
      if class then
        return class, what
      end
      if not entry.name:match("/$") then
        if not spend(budget, 0) then
          return unreadable(name)
        end
        local data = entry.size > 0 and slice(content, entry.from, math.min(entry.size, HEAD))
        local opened = data and not entry.encrypted
          and (entry.method == 0 and rspamd_text.fromstring(data) or entry.method == 8 and inflate(data, BYTES))
        if entry.size > 0 and not opened then
          class, what = unreadable(name)
        elseif opened and spend(budget, #opened) then
          local inner = head(opened, 512)
          local four = inner:sub(1, 4)
          if entry.size > HEAD
            and (four == "PK\3\4" or four == "\208\207\17\224" or inner:sub(1, 2) == "\31\139" or inner:sub(258, 262) == "ustar") then
            -- What is in these is not known from their beginning.
            data = slice(content, entry.from, entry.size)
            opened = data and (entry.method == 0 and rspamd_text.fromstring(data) or inflate(data, math.max(budget.bytes, 1)))
          end
          if not opened or not spend(budget, #opened) then
            class, what = unreadable(name)
          else
            class, what = judge(entry.name, opened, budget, depth + 1)
          end
        elseif opened then
          class, what = unreadable(name)
        end
        if class then
          return class, what
        end
      end
    end
  end

  local function judge_tar(name, content, budget, depth)
    local position = 1
    while position + 511 <= #content do
      local header = slice(content, position, 512)
      local inner = header:match("^%Z+")
      if not inner then
        return nil
      end
      local size = tonumber(header:sub(125, 135):match("%d+") or "", 8)
      if not size or not spend(budget, 0) then
        return unreadable(name)
      end
      local data = size > 0 and position + 511 + size <= #content and content:span(position + 512, size) or nil
      local class, what = judge(inner, data, budget, depth + 1)
      if class then
        return class, what
      end
      position = position + 512 + math.ceil(size / 512) * 512
    end
  end

  -- What is refused about a file, and its name. `content` is nil where only the name is known.
  judge = function(name, content, budget, depth)
    local extension = name:lower():gsub("[%s%.]+$", ""):match("%.([%w_%-]+)$") or ""
    for class in pairs(refused) do
      if (EXTENSIONS[class] or {})[extension] then
        return class, name
      end
    end
    if extensions[extension] then
      return "." .. extension, name
    end
    if not content or #content == 0 then
      return nil
    end
    local start = head(content, 512)
    if depth > DEPTH then
      return unreadable(name)
    elseif start:sub(1, 4) == "PK\3\4" then
      return judge_zip(name, content, budget, depth)
    end
    local kind
    if start:sub(1, 2) == "\31\139" then
      kind = "gz"
    elseif start:sub(1, 6) == "Rar!\26\7" then
      kind = "rar"
    elseif start:sub(1, 6) == "7z\188\175\39\28" then
      kind = "7z"
    elseif MACH_O[start:sub(1, 4)] then
      kind = "elf"
    elseif start:sub(1, 2) ~= "MZ" then
      kind = lua_magic.detect({get_content = function() return content end, get_filename = function() return name end}, nil)
    elseif start:sub(1, 128):find("%z") then
      kind = "exe" -- a text may begin with these letters as well
    end
    local class = KINDS[kind]
    if refused[class] then
      return class, name
    end
    if refused.scripts then
      local line = start:gsub("^\239\187\191", ""):gsub("^%s+", ""):lower()
      if line:match("^#!") or line:match("^@?echo%s+off") then
        return "scripts", name
      end
    end
    if refused.macros and start:sub(1, 4) == "\208\207\17\224" and content:str():find(VBA, 1, true) then
      return "macros", name
    end
    if kind == "gz" then
      local opened = util.gzip_decompress(content, math.max(budget.bytes, 1))
      if not opened or not spend(budget, #opened) then
        return unreadable(name)
      end
      return judge(name:gsub("%.[tT][gG][zZ]$", ".tar"):gsub("%.[gG][zZ]$", ""), opened, budget, depth + 1)
    elseif kind == "tar" then
      return judge_tar(name, content, budget, depth)
    elseif (kind == "rar" or kind == "7z") and depth > 1 then
      -- Rspamd lists only those that are attached themselves.
      return unreadable(name)
    end
  end

  -- Archives of which Rspamd knows the names alone.
  local function judge_listed(name, archive)
    if archive:is_encrypted() or archive:is_unreadable() then
      local class, what = unreadable(name)
      if class then
        return class, what
      end
    end
    for _, file in ipairs(archive:get_files_full(FILES) or {}) do
      local class, what = judge(file.name or "", nil, nil, 2)
      if not class and file.encrypted then
        class, what = unreadable(name)
      end
      if class then
        return class, what
      end
    end
  end

  local function judge_part(part, budget)
    local name = part:get_filename() or ""
    if part:is_multipart() or part:is_message() or (part:is_text() and name == "") then
      return nil
    end
    local declared = ("%s/%s"):format(part:get_type()):lower()
    local kind = part:get_detected_ext()
    for _, type in ipairs({declared, ((kind and lua_magic.types[kind] or {}).ct or ""):lower()}) do
      if types[type] or types[type:gsub("/.*", "/*")] then
        return type, name
      end
    end
    local class, what = judge(name, part:get_content(), budget, 1)
    if not class and part:is_archive() then
      local archive = part:get_archive()
      local type = tostring(archive:get_type()):lower()
      if type == "rar" or type == "7z" then
        class, what = judge_listed(name, archive)
      end
    end
    return class, what
  end

  rspamd_config:register_symbol({
    name = "MAILWRIGHT_ATTACHMENTS",
    type = "prefilter",
    priority = 6,
    flags = "empty,nostat",
    callback = function(task)
      -- What this host makes itself has been looked at when it came in.
      if common.is_allowed(task) or (common.loopback(task) and not task:get_user()) then
        return
      end
      local budget = {files = FILES, bytes = BYTES}
      for _, part in ipairs(task:get_parts() or {}) do
        local fine, class, what = pcall(judge_part, part, budget)
        if not fine then
          rspamd_logger.errx(task, "attachment could not be looked into: %s", class)
          class, what = unreadable("?")
        end
        if class then
          what = what:gsub("[%c\127-\255]", "?"):sub(1, 100)
          rspamd_logger.messagex(task, "attachment refused by mail_attachments (%s): %s", class, what)
          task:set_pre_result("reject", "Attachments of this kind are not accepted here (" .. class .. ")", N)
          return
        end
      end
    end,
  })
end

{% import 'header.j2' as header %}
{% if mail.legal_notes %}
{{ header.dashes() }}
-- legal_note: text below mail of a domain that leaves. Rspamd's own function for it builds the whole message anew; here only the parts that are read
-- change, and all others stay as they are to the octet. rspamd.local.lua calls this with what both need.
local rspamd_logger = require "rspamd_logger"
local rspamd_util = require "rspamd_util"

return function(common)
  local data = common.load("legal_notes.json")
  local own_domains = {}
  for _, name in ipairs(data.own_domains) do
    own_domains[name] = true
  end

  local function squeezed(text)
    return (("\n" .. text):gsub("\n[>%s]+", " "):gsub("%s+", " "):gsub("^ ", ""):gsub(" $", ""))
  end
  for _, note in pairs(data.notes) do
    note.words = squeezed(table.concat(note.text, "\n"))
    note.ascii = not note.words:find("[\128-\255]")
  end

  -- Whom it is for ----------------------------------------------------------------------------------------------------------

  local function leaves(task)
    for _, recipient in ipairs(task:get_recipients("smtp") or {}) do
      if not own_domains[(recipient.domain or ""):lower()] or common.is_forwarder(recipient) then
        return true
      end
    end
    return false
  end

  local function note_for(task)
    local from = (task:get_from("mime") or {})[1]
    local note = from and data.notes[(from.domain or ""):lower()]
    -- Signed by somebody else, or only passing through (a Sieve redirect): not ours to change.
    if not note or not common.written_here(task) or task:get_header("DKIM-Signature") then
      return nil
    end
    return leaves(task) and note or nil
  end

  -- Which parts of it --------------------------------------------------------------------------------------------------------

  local SEALED = {
    ["multipart/signed"] = true, ["multipart/encrypted"] = true, ["application/pkcs7-mime"] = true, ["application/x-pkcs7-mime"] = true,
    ["application/pgp-encrypted"] = true,
  }

  local function type_of(part)
    local main, sub = part:get_type()
    return ((main or "text") .. "/" .. (sub or "plain")):lower()
  end

  -- Signed or encrypted, as a whole or somewhere inside; what is in an attached message stays as it is anyway.
  local function sealed(part)
    if SEALED[type_of(part)] then
      return true
    end
    if part:is_multipart() then
      for _, child in ipairs(part:get_children() or {}) do
        if sealed(child) then
          return true
        end
      end
    elseif part:is_text() and not part:is_attachment() then
      return part:get_content():str():find("-----BEGIN PGP ", 1, true) ~= nil
    end
    return false
  end

  -- What is read last: every alternative of it.
  local function readable(part, found)
    local kind = type_of(part)
    if part:is_attachment() then
      return false
    elseif kind == "text/plain" or kind == "text/html" then
      if not part:is_text() then
        return false
      end
      table.insert(found, part)
      return true
    elseif not part:is_multipart() then
      return false
    end
    local children = part:get_children() or {}
    if kind == "multipart/alternative" then
      local any = false
      for _, child in ipairs(children) do
        any = readable(child, found) or any
      end
      return any
    elseif kind == "multipart/related" then
      return children[1] ~= nil and readable(children[1], found)
    elseif kind == "multipart/mixed" then
      for number = #children, 1, -1 do
        if readable(children[number], found) then
          return true
        end
      end
    end
    return false
  end

  -- How it gets in -----------------------------------------------------------------------------------------------------------

  local UTF8 = {["utf-8"] = true, utf8 = true}
  -- Charsets in which ASCII is not itself.
  local WIDE = {"^utf%-?16", "^utf%-?32", "^utf%-?7$", "^ucs", "^iso%-10646", "^hz"}

  local function quoted_printable(text)
    local lines = {}
    for line, stop in (text .. "\n"):gmatch("([^\n]*)(\n)") do
      line = line:gsub("\r$", "")
      line = line:gsub("[^\32-\60\62-\126\t]", function(octet) return string.format("=%02X", octet:byte()) end)
      line = line:gsub("[ \t]$", function(octet) return string.format("=%02X", octet:byte()) end)
      while #line > 76 do
        -- Not through the middle of an octet.
        local cut = 75
        if line:sub(cut, cut) == "=" then
          cut = cut - 1
        elseif line:sub(cut - 1, cut - 1) == "=" then
          cut = cut - 2
        end
        table.insert(lines, line:sub(1, cut) .. "=")
        line = line:sub(cut + 1)
      end
      table.insert(lines, line)
    end
    return table.concat(lines, "\r\n")
  end

  local function below(text, addition, newline)
    local last = #text
    while last > 0 and text:sub(last, last):find("[\r\n]") do
      last = last - 1
    end
    return text:sub(1, last) .. newline .. newline .. addition .. (last < #text and text:sub(last + 1) or newline)
  end

  local function last_of(text, word)
    local found, at = nil, text:find(word, 1, true)
    while at do
      found, at = at, text:find(word, at + 1, true)
    end
    return found
  end

  local function in_html(text, addition, newline)
    local lower = text:lower()
    local at = last_of(lower, "</body>") or last_of(lower, "</html>")
    return at and text:sub(1, at - 1) .. addition .. newline .. text:sub(at) or below(text, addition, newline)
  end

  -- The part with the note: its content as it is sent, and headers that it needs; nothing where it cannot be or is there already.
  local function with_note(part, note)
    local text, encoding = part:get_text(), (part:get_cte() or ""):lower()
    if encoding == "uuencode" or encoding == "unknown" or squeezed(tostring(text:get_content() or "")):find(note.words, 1, true) then
      return nil
    end
    local _, _, parameters = part:get_type_full()
    parameters = parameters or {}
    local charset = tostring(parameters.charset or ""):lower()
    local content, headers = part:get_content():str(), {}
    local html = type_of(part) == "text/html"
    local foreign = not html and not note.ascii and not UTF8[charset]
    for _, pattern in ipairs(WIDE) do
      foreign = foreign or charset:find(pattern) ~= nil
    end
    if foreign then
      local plain = (charset == "" or charset == "us-ascii") and not content:find("[\128-\255]")
      if not plain then
        content = tostring(text:get_content("raw_utf") or "")
        if not text:is_utf() or not rspamd_util.is_valid_utf8(content) then
          return nil
        end
      end
      local value = (part:get_header("Content-Type") or "text/plain"):gsub("[\r\n]+%s*", " ")
      value = value:gsub(';%s*[cC][hH][aA][rR][sS][eE][tT]%*?%d*%*?%s*=%s*"[^"]*"', ""):gsub(";%s*[cC][hH][aA][rR][sS][eE][tT]%*?%d*%*?%s*=%s*[^;%s]*", "")
      headers["Content-Type"] = value:gsub("[;%s]+$", "") .. "; charset=utf-8"
    end

    local newline = (encoding ~= "base64" or not content:find("\n", 1, true) or content:find("\r\n", 1, true)) and "\r\n" or "\n"
    if html then
      content = in_html(content, table.concat(note.html, newline), newline)
    else
      local lines, flowed = {}, tostring(parameters.format or ""):lower() == "flowed"
      for number, line in ipairs(note.text) do
        -- RFC 3676, 4.4
        lines[number] = flowed and (line:find("^[ >]") or line:find("^From ")) and " " .. line or line
      end
      content = below(content, table.concat(lines, newline), newline)
    end

    if encoding == "base64" then
      content = tostring(rspamd_util.encode_base64(content, 76, "crlf")):gsub("%s*$", "") .. "\r\n"
    elseif encoding == "quoted-printable" then
      content = quoted_printable(content)
    elseif encoding ~= "8bit" and encoding ~= "binary" and content:find("[\128-\255]") then
      content = quoted_printable(content)
      headers["Content-Transfer-Encoding"] = "quoted-printable"
    end
    return content, headers
  end

  -- Where it stands ----------------------------------------------------------------------------------------------------------

  local NAMES = {"MIME-Version", "Content-Type", "Content-Transfer-Encoding"}

  local function with_headers(block, changes)
    local kept, dropped = {}, false
    for line in block:gmatch("[^\n]*\n") do
      if not line:find("^[ \t]") then
        local name = (line:match("^([^:%s]+)%s*:") or ""):lower()
        dropped = false
        for _, changed in ipairs(NAMES) do
          dropped = dropped or (changes[changed] ~= nil and changed:lower() == name)
        end
      end
      if not dropped then
        table.insert(kept, line)
      end
    end
    for _, name in ipairs(NAMES) do
      if changes[name] then
        table.insert(kept, name .. ": " .. changes[name] .. "\r\n")
      end
    end
    return table.concat(kept)
  end

  -- First octet of its headers, of its content, and the first one after it.
  local function place_of(message, part, outermost)
    local raw = part:get_raw_content():str()
    if outermost then
      local _, blank = message:find("\r?\n\r?\n")
      return 1, (blank or #message) + 1, #message + 1
    end
    local headers = part:get_raw_headers():str()
    local line = "--" .. (part:get_parent():get_boundary() or "")
    local _, at = message:find(line, 1, true)
    while at do
      local _, head = message:find("^[ \t]*\r?\n", at + 1)
      if head and message:sub(head + 1, head + #headers) == headers then
        for _, gap in ipairs({"", "\r\n", "\n"}) do
          local body = head + 1 + #headers
          if message:sub(body, body + #gap - 1) == gap and message:sub(body + #gap, body + #gap + #raw - 1) == raw then
            return head + 1, body + #gap, body + #gap + #raw
          end
        end
      end
      _, at = message:find(line, at + 1, true)
    end
    return nil
  end

  local function add(task, note)
    local root = (task:get_parts() or {})[1]
    while root and root:get_parent() do
      root = root:get_parent()
    end
    if not root or sealed(root) then
      return "signed or encrypted"
    end
    local parts, edits, message = {}, {}, task:get_content():str()
    readable(root, parts)
    for _, part in ipairs(parts) do
      local content, headers = with_note(part, note)
      if content then
        local outermost = part:get_parent() == nil
        local head, body, after = place_of(message, part, outermost)
        if not head then
          return "a part was not found again"
        end
        local block = message:sub(head, body - 1)
        if next(headers) then
          if outermost then
            headers["MIME-Version"] = task:get_header("MIME-Version") == nil and "1.0" or nil
            local remove = {}
            for name in pairs(headers) do
              remove[name] = 0
            end
            task:set_milter_reply({remove_headers = remove, add_headers = headers})
          end
          block = with_headers(block:gsub("\r?\n$", "", 1), headers) .. "\r\n"
        end
        table.insert(edits, {head, after, block .. content})
      end
    end
    if #edits == 0 then
      return #parts == 0 and "no text" or "is there"
    end
    table.sort(edits, function(one, other) return one[1] < other[1] end)
    local pieces, at = {}, 1
    for _, edit in ipairs(edits) do
      table.insert(pieces, message:sub(at, edit[1] - 1))
      table.insert(pieces, edit[3])
      at = edit[2]
    end
    table.insert(pieces, message:sub(at))
    task:set_message(pieces)
    return string.format("added to %d", #edits)
  end

  rspamd_config:register_symbol({
    name = "MAILWRIGHT_LEGAL_NOTE",
    -- After what may end the message here; before it is scanned, and before it is signed, which is a filter like others.
    type = "prefilter",
    priority = 1,
    flags = "empty,nostat",
    callback = function(task)
      local note = note_for(task)
      if note then
        rspamd_logger.messagex(task, "legal note: %s", add(task, note))
      end
    end,
  })
end
{% endif %}

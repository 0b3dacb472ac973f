{% if __rspamd_origins %}
{% import 'header.j2' as header %}{{ header.dashes() }}
-- mail_origins: points by the country and the autonomous system of the client. mailwright-origins.service writes the networks of each to a
-- file, which Rspamd reads again by itself.
local lua_maps = require "lua_maps"

return function(N, common)
  for origin, score in pairs(common.load("origins.json")) do
    local symbol = "MAILWRIGHT_" .. (origin:match("^AS%d") and "" or "COUNTRY_") .. origin
    local networks = lua_maps.rspamd_map_add_from_ucl("{{ __rspamd_origins_path }}/" .. origin, "radix", "mail_origins: " .. origin)
    rspamd_config:register_symbol({
      name = symbol,
      flags = "empty,nostat",
      callback = function(task)
        local ip = task:get_from_ip()
        if networks and ip and ip:is_valid() and not common.own(task) and networks:get_key(ip) then
          task:insert_result(symbol, 1.0, ip:to_string())
        end
      end,
    })
    rspamd_config:set_metric_symbol({name = symbol, score = score, group = N, description = "mail_origins"})
  end
end
{% endif %}

{% import 'header.j2' as header %}
{{ header.hash() }}
# What Rspamd marked as junk goes to Junk before the user's own script is asked: no vacation answers to spam.
require ["environment", "fileinto", "vnd.dovecot.environment"];

if allof (header :is "X-Spam" "Yes", not environment :is "vnd.dovecot.config.junk_filing" "no") {
  fileinto "Junk";
  stop;
}

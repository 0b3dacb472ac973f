{% import 'header.j2' as header %}
{{ header.hash() }}
# Runs when a user copies or moves a message into Junk. :try: the move succeeds whatever the learner says.
require ["copy", "environment", "imapsieve", "variables", "vnd.dovecot.pipe"];

{% if mail.settings.spam_trainers is not none %}
# mail_spam_trainers: nobody else's moves say anything.
if not environment :is "imap.user" {{ mail.settings.spam_trainers | to_json }} {
  stop;
}
{% endif %}
# For the journal.
if environment :matches "imap.user" "*" {
  set "user" "${1}";
}
pipe :copy :try "learn-spam" ["${user}"];

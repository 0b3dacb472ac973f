{% import 'header.j2' as header %}
{{ header.hash() }}
# Runs when a user copies or moves a message out of Junk; to throw spam away says nothing about it.
require ["copy", "environment", "imapsieve", "vnd.dovecot.pipe"];

if not environment :matches "imap.mailbox" ["Trash", "Trash/*"] {
  pipe :copy :try "learn-ham";
}

{% import 'header.j2' as header %}
{{ header.hash() }}
# Runs when a user copies or moves a message into Junk. :try: the move succeeds whatever the learner says.
require ["copy", "vnd.dovecot.pipe"];

pipe :copy :try "learn-spam";

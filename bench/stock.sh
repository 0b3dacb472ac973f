# Debian's packages as they come, wired together with the fewest settings that make them one chain:
# Postfix → Rspamd (milter) → Dovecot's LMTP → Maildir of system users. The floor that `mail_rate` is compared with.
rm -f /usr/sbin/policy-rc.d
for user in $(seq -f user%g 0 39); do id $user >/dev/null 2>&1 || useradd --create-home $user; done
[ -f /etc/postfix/main.cf ] || cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf
postconf -e 'myhostname = twin.oak.test' 'mydestination = twin.oak.test, localhost' 'inet_interfaces = all' \
  'mailbox_transport = lmtp:unix:private/dovecot-lmtp' 'smtpd_milters = inet:localhost:11332' 'alias_maps ='
cat >/etc/dovecot/local.conf <<'CONF'
service lmtp {
  unix_listener /var/spool/postfix/private/dovecot-lmtp {
    mode = 0600
    user = postfix
  }
}
CONF
if dovecot --version | grep -q '^2\.3'; then
  printf 'mail_location = maildir:~/Maildir\nprotocol lmtp {\n  auth_username_format = %%n\n}\n' >>/etc/dovecot/local.conf
else
  printf 'mail_driver = maildir\nmail_path = ~/Maildir\nmail_inbox_path = ~/Maildir\nlmtp_user_concurrency_limit = unlimited\n' >>/etc/dovecot/local.conf
fi
# Postfix first: Dovecot's socket lies in a directory that it makes. Rspamd compiles for half a minute before it answers.
systemctl restart redis-server rspamd postfix
systemctl restart dovecot
for _ in $(seq 1200); do
  ss -ltn | grep -q ':11332' && exit
  sleep 0.1
done
echo "Rspamd does not answer" >&2
exit 1

#!/usr/bin/python
# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""One service's configuration, changed as one transaction; the algorithm is in module_utils/mailwright/transaction.py."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mailwright.files import LockedError
from ansible.module_utils.mailwright.transaction import transact
from ansible.module_utils.mailwright.tree import TreeError, parse

DOCUMENTATION = r"""
module: config_tree
short_description: Make one service's files equal to its role's templates and its units run on them
description:
  - Renders every file of the role's C(templates/) folders on the controller and sends them to the host in one call.
  - There, as one transaction - compares content, owner and mode; runs the service's own checks where the new files seem
    to be live already, in a private mount namespace; swaps the files by renames; reloads or restarts the units; waits
    until every probe succeeds. If anything fails after the swap, the previous files come back and the units run on
    them.
  - A file's path under the folder is its path on the host. A template that renders to white space only is not written.
    A file whose name ends in C(.j2) is there to be imported and is never written. A file once written and no longer
    rendered is removed, and what was there before Mailwright comes back.
  - Templates see C(mail_file_header), and can import from their own folders and from the project's C(templates/).
  - A run that was killed is noticed by the next one, which repeats the activation.
  - Only for tasks of a role.
author: Mailwright contributors
attributes:
  check_mode:
    support: full
    description: Everything is compared and, where the service is installed, checked. Nothing is written.
  diff_mode:
    support: full
    description: Contents of files marked secret are left out.
options:
  name:
    description: Name of the tree; its manifest is kept in C(/var/lib/mailwright/trees/<name>).
    type: str
    required: true
  trees:
    description: Folders under the role's C(templates/); where two hold the same file, the later one wins.
    type: list
    elements: str
    default: ["."]
  directories:
    description:
      - Directories that the checks see as they would be after the swap. In check mode, checks are left out while one of
        them does not exist.
    type: list
    elements: path
    default: []
  needs:
    description: What the checks need of others' making. In check mode, checks are left out while one of them does not exist.
    type: list
    elements: path
    default: []
  attributes:
    description: Owner, mode and secrecy of files; the first entry whose glob matches wins.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Glob of the path on the host; C(*) matches slashes too. With a slash at its end it is for directories that
            hold rendered files, which are otherwise made as root:root 0755 and left alone where they exist.
        type: str
        required: true
      owner:
        description: User.
        type: str
        default: root
      group:
        description: Group.
        type: str
        default: root
      mode:
        description: Octal mode, in quotes.
        type: str
        default: "0644"
      secret:
        description: Keep the content out of the diff, and its words out of error messages.
        type: bool
        default: false
  check:
    description:
      - Commands, each a list of arguments, that must succeed on the staged files before anything changes. In check
        mode, those that are not installed are left out.
    type: list
    elements: list
    default: []
  apply:
    description:
      - Commands to run after the swap and before the units, only when files changed. C(systemctl daemon-reload) runs by
        itself where a unit file or drop-in changed.
    type: list
    elements: list
    default: []
  units:
    description: Units to be enabled and active, in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the unit, with its suffix.
        type: str
        required: true
      process:
        description: The unit whose state tells the truth, where it is another one.
        type: str
      action:
        description: What a change needs. A unit that cannot reload is restarted.
        type: str
        choices: [reload, restart]
        default: reload
      restart_on:
        description:
          - Globs of paths whose change needs a restart. The unit's own file and drop-ins in C(/etc/systemd/system)
            always do, and so does the first activation.
        type: list
        elements: str
        default: []
      paths:
        description: Globs of the paths that concern this unit; all by default.
        type: list
        elements: str
        default: []
      refusal:
        description:
          - A regular expression for lines of the unit's log. One that matches after a reload means that the unit kept its old
            configuration or part of it, although the reload itself succeeded, so it has failed.
        type: str
  watch:
    description: Files of others (or directories, or globs) whose new content needs the units' action.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path or glob.
        type: str
        required: true
      action:
        description: What it needs; each unit's own O(units[].action) by default.
        type: str
        choices: [reload, restart]
  probe:
    description: What must answer after an activation. Each entry has exactly one of C(port), C(socket) and C(command).
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: TCP port that must accept a connection.
        type: int
      host:
        description: Address to connect to.
        type: str
        default: 127.0.0.1
      tls:
        description: Whether the port talks TLS from the first byte. The certificate is not verified.
        type: bool
        default: false
      socket:
        description: Path of a Unix stream socket that must accept a connection.
        type: path
      command:
        description: Command that must succeed.
        type: list
        elements: str
      send:
        description: Text to send once connected.
        type: str
      expect:
        description: Regular expression that must match somewhere in what the peer sends or the command prints.
        type: str
  probe_timeout:
    description: Seconds for all probes together, and for the units to be active.
    type: float
    default: 10
  settle:
    description:
      - Seconds between a reload and the first probe. A reload returns before the daemon has read its files, and until then
        the old configuration answers.
      - A unit of type simple or exec must still be active so long after its start, too.
    type: float
    default: 1
  files:
    description: The rendered files, as JSON. Set by the action plugin, never by a task.
    type: str
  seal:
    description:
      - Digest of everything above. Set by the action plugin, which leaves the host alone while M(host_facts) finds the same seal there
        and what it stands for untouched.
    type: str
"""

EXAMPLES = r"""
- name: Configure and run nginx
  config_tree:
    name: nginx
    directories: [/etc/nginx]
    attributes:
      - {path: "/etc/nginx/passwords/*", group: www-data, mode: "0640", secret: true}
    check: [[nginx, -t, -q]]
    units: [{name: nginx.service}]
    watch: [{path: /var/lib/mailwright/tls/default/fullchain.pem}]
    probe: [{port: 80}, {port: 443, tls: true}]

- name: Configure and run Postfix
  config_tree:
    name: postfix
    trees: [common, "3.7"]
    directories: [/etc/postfix]
    check: [[postfix, check]]
    units:
      - name: postfix.service
        process: postfix@-.service
        restart_on: [/etc/postfix/master.cf]
    watch: [{path: /etc/resolv.conf, action: restart}]
    probe: [{port: 25, expect: "^220 "}]
"""

RETURN = r"""
changed_paths:
  description: Files written, or in check mode to be written.
  returned: success
  type: list
  elements: str
  sample: [/etc/nginx/nginx.conf]
removed_paths:
  description: Files no longer rendered that were removed or put back to what they were before Mailwright.
  returned: success
  type: list
  elements: str
  sample: []
units:
  description: What was done to units, of C(enable), C(start), C(reload) and C(restart); units left alone are not named.
  returned: success
  type: dict
  sample: {nginx.service: reload}
notes:
  description: Checks that check mode could not run, with the reason.
  returned: success
  type: list
  elements: str
  sample: ["not run: nginx -t -q: nginx is not installed yet"]
"""

ATTRIBUTE = {
    "path": {"type": "str", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str", "default": "0644"},
    "secret": {"type": "bool", "default": False, "no_log": False},
}
UNIT = {
    "name": {"type": "str", "required": True},
    "process": {"type": "str"},
    "action": {"type": "str", "choices": ["reload", "restart"], "default": "reload"},
    "restart_on": {"type": "list", "elements": "str", "default": []},
    "paths": {"type": "list", "elements": "str", "default": []},
    "refusal": {"type": "str"},
}
WATCH = {
    "path": {"type": "str", "required": True},
    "action": {"type": "str", "choices": ["reload", "restart"]},
}
PROBE = {
    "port": {"type": "int"},
    "host": {"type": "str", "default": "127.0.0.1"},
    "tls": {"type": "bool", "default": False},
    "socket": {"type": "path"},
    "command": {"type": "list", "elements": "str"},
    "send": {"type": "str"},
    "expect": {"type": "str"},
}
ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "trees": {"type": "list", "elements": "str", "default": ["."]},
    "directories": {"type": "list", "elements": "path", "default": []},
    "needs": {"type": "list", "elements": "path", "default": []},
    "attributes": {"type": "list", "elements": "dict", "options": ATTRIBUTE, "default": []},
    "check": {"type": "list", "elements": "list", "default": []},
    "apply": {"type": "list", "elements": "list", "default": []},
    "units": {"type": "list", "elements": "dict", "options": UNIT, "default": []},
    "watch": {"type": "list", "elements": "dict", "options": WATCH, "default": []},
    "probe": {"type": "list", "elements": "dict", "options": PROBE, "default": []},
    "probe_timeout": {"type": "float", "default": 10},
    "settle": {"type": "float", "default": 1},
    # One string, so that the masking of secrets does not blank every line of every file wherever it occurs.
    "files": {"type": "str", "no_log": True},
    "seal": {"type": "str", "no_log": True},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if module.params["files"] is None:
        module.fail_json(msg="config_tree needs its action plugin, which renders the files (see ansible.cfg)")
    try:
        result = transact(parse(module.params), check_mode=module.check_mode)
    except (TreeError, LockedError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**vars(result))


if __name__ == "__main__":
    main()

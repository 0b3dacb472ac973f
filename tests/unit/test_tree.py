"""The transaction of config_tree on a directory of its own; what needs systemd is tested on lab machines."""

from __future__ import annotations

import fcntl
import getpass
import grp
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible.module_utils.mailwright import entries, stage, transaction
from ansible.module_utils.mailwright.files import LockedError, host_lock, write_atomic
from ansible.module_utils.mailwright.probes import Probe, attempt
from ansible.module_utils.mailwright.transaction import transact
from ansible.module_utils.mailwright.tree import Attribute, Tree, TreeError, Watch, parse
from ansible.module_utils.mailwright.tree_plan import watch_fingerprint
from ansible.module_utils.mailwright.units import Unit, first_restless, plan_unit
from hypothesis import given, settings
from hypothesis import strategies as st

OWNER = getpass.getuser()
GROUP = grp.getgrgid(os.getgid()).gr_name


def can_unshare() -> bool:
    """Whether this process may make mount namespaces."""
    return stage.check_staged([], lambda in_stage: None, [["true"]]) == []


needs_namespaces = pytest.mark.skipif(not can_unshare(), reason="mount namespaces need root")


class Host:
    """A directory that stands for a host's file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc"
        self.etc.mkdir()
        self.state = root / "state"

    def apply(self, files: dict[str, str], check_mode: bool = False, **options: object) -> transaction.Result:
        """One config_tree task; the names of `files` are below etc/."""
        given = {str(self.etc / name): text for name, text in files.items()}
        attributes = [*options.pop("attributes", ()), Attribute("*", OWNER, GROUP)]
        asked = Tree(name="test", files=given, attributes=attributes, settle=0, **options)
        return transact(asked, check_mode=check_mode, state=self.state, lock=self.root / "lock")

    def files(self) -> dict[str, str]:
        """What is live."""
        return {str(p.relative_to(self.etc)): p.read_text() for p in sorted(self.etc.rglob("*")) if p.is_file()}

    def everything(self) -> dict[str, tuple]:
        """Every name and its metadata, to see that nothing was touched."""
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_mode, p.lstat().st_ino) for p in sorted(self.root.rglob("*"))}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# --- files ---


def test_the_second_run_changes_nothing(host: Host) -> None:
    assert host.apply({"a": "1\n", "d/b": "2\n"}).changed
    before = host.everything()
    assert not host.apply({"a": "1\n", "d/b": "2\n"}).changed
    assert host.everything() == before


def test_only_what_differs_is_written_and_named(host: Host) -> None:
    host.apply({"a": "1\n", "b": "2\n"})
    unchanged = (host.etc / "b").stat()
    result = host.apply({"a": "9\n", "b": "2\n"})
    assert result.changed_paths == [str(host.etc / "a")]
    assert (host.etc / "b").stat() == unchanged


def test_postfix_need_not_wait_for_a_new_file_to_settle(host: Host) -> None:
    """It does while a file is younger than two seconds, in the stage and where it is live."""
    aged = ("python3", "-c", f"import os, time; assert time.time() - os.stat({str(host.etc / 'a')!r}).st_mtime > 2")
    host.apply({"a": "1\n"}, check=[aged], directories=[str(host.etc)], probe=[Probe(command=aged)], probe_timeout=1)


def test_check_mode_tells_the_same_and_writes_nothing(host: Host) -> None:
    host.apply({"a": "1\n", "gone": "x\n"})
    (host.etc / "a").chmod(0o600)
    before = host.everything()
    announced = host.apply({"a": "1\n", "new/b": "2\n"}, check_mode=True)
    assert host.everything() == before
    assert host.apply({"a": "1\n", "new/b": "2\n"}) == announced
    assert not host.apply({"a": "1\n", "new/b": "2\n"}, check_mode=True).changed


def test_mode_of_an_equal_file_is_corrected(host: Host) -> None:
    host.apply({"a": "1\n"})
    (host.etc / "a").chmod(0o666)
    result = host.apply({"a": "1\n"})
    assert result.changed_paths == [str(host.etc / "a")]
    assert (host.etc / "a").stat().st_mode & 0o7777 == 0o644
    assert result.diff[0]["before"].endswith(" 0666\n")
    assert result.diff[0]["after"].endswith(" 0644\n")


def test_the_first_attribute_that_matches_wins(host: Host) -> None:
    secret = Attribute(f"{host.etc}/secret*", OWNER, GROUP, 0o600, secret=True)
    tool = Attribute("*/secret-tool", OWNER, GROUP, 0o755)
    host.apply({"secret-tool": "x\n", "tool": "y\n"}, attributes=[secret, tool])
    assert (host.etc / "secret-tool").stat().st_mode & 0o777 == 0o600
    assert (host.etc / "tool").stat().st_mode & 0o777 == 0o644


def test_directories_get_their_mode_from_an_attribute_with_a_slash(host: Host) -> None:
    private = Attribute("*/private/", OWNER, GROUP, 0o750)
    host.apply({"private/a": "x\n", "open/a": "y\n"}, attributes=[private])
    assert (host.etc / "private").stat().st_mode & 0o777 == 0o750
    assert (host.etc / "open").stat().st_mode & 0o777 == 0o755
    (host.etc / "private").chmod(0o777)
    assert host.apply({"private/a": "x\n", "open/a": "y\n"}, attributes=[private]).changed
    assert (host.etc / "private").stat().st_mode & 0o777 == 0o750


def test_an_open_umask_or_a_tight_one_makes_no_difference(host: Host) -> None:
    old = os.umask(0o077)
    try:
        host.apply({"deep/er/a": "x\n"})
    finally:
        os.umask(old)
    assert [p.stat().st_mode & 0o777 for p in (host.etc / "deep", host.etc / "deep/er", host.etc / "deep/er/a")] == [
        0o755,
        0o755,
        0o644,
    ]


def test_a_file_no_longer_rendered_is_removed_with_the_directories_made_for_it(host: Host) -> None:
    (host.etc / "theirs").mkdir()
    host.apply({"made/for/it": "x\n", "theirs/a": "y\n", "kept": "z\n"})
    result = host.apply({"kept": "z\n"})
    assert result.removed_paths == [str(host.etc / "made/for/it"), str(host.etc / "theirs/a")]
    assert host.files() == {"kept": "z\n"}
    assert not (host.etc / "made").exists()
    assert (host.etc / "theirs").is_dir()
    assert not host.apply({"kept": "z\n"}).changed


def test_what_was_there_before_mailwright_comes_back(host: Host) -> None:
    write_atomic(host.etc / "main.cf", b"stock\n", mode=0o640)
    (host.etc / "link").symlink_to("/nowhere")
    host.apply({"main.cf": "ours\n", "link": "ours\n"})
    host.apply({"main.cf": "ours 2\n", "link": "ours\n"})
    host.apply({})
    assert (host.etc / "main.cf").read_text() == "stock\n"
    assert (host.etc / "main.cf").stat().st_mode & 0o777 == 0o640
    assert (host.etc / "link").readlink() == Path("/nowhere")


def test_only_files_once_written_are_removed(host: Host) -> None:
    (host.etc / "theirs").write_text("x\n")
    host.apply({"ours": "y\n"})
    host.apply({})
    assert host.files() == {"theirs": "x\n"}


def test_a_link_is_replaced_and_what_it_points_to_left_alone(host: Host) -> None:
    target = host.root / "precious"
    target.write_text("precious\n")
    (host.etc / "a").symlink_to(target)
    host.apply({"a": "ours\n"})
    assert not (host.etc / "a").is_symlink()
    assert target.read_text() == "precious\n"


def test_a_directory_in_the_place_of_a_file_is_an_error_before_anything_is_written(host: Host) -> None:
    (host.etc / "b").mkdir()
    with pytest.raises(TreeError, match="b is a directory on this host"):
        host.apply({"a": "1\n", "b": "2\n"})
    assert host.files() == {}


def test_a_file_in_the_place_of_a_directory_is_an_error(host: Host) -> None:
    (host.etc / "d").write_text("")
    with pytest.raises(TreeError, match="is a file on this host"):
        host.apply({"d/b": "2\n"})


def test_an_account_that_does_not_exist_yet_is_a_change_in_check_mode_and_an_error_otherwise(host: Host) -> None:
    nobody = [Attribute("*", "no-such-user", "no-such-group")]
    assert host.apply({"a": "1\n"}, attributes=nobody, check_mode=True).changed
    with pytest.raises(TreeError, match="user 'no-such-user' does not exist"):
        host.apply({"a": "1\n"}, attributes=nobody)
    assert host.files() == {}


def test_a_lost_manifest_does_not_make_our_files_originals(host: Host) -> None:
    host.apply({"a": "1\n"})
    (host.state / "manifest.json").unlink()
    assert host.apply({"a": "1\n"}).changed
    host.apply({})
    assert host.files() == {}


def test_a_damaged_manifest_is_named(host: Host) -> None:
    host.apply({"a": "1\n"})
    (host.state / "manifest.json").write_text("{")
    with pytest.raises(TreeError, match=r"manifest\.json is damaged"):
        host.apply({"a": "1\n"})


def test_the_state_is_for_root_only(host: Host) -> None:
    write_atomic(host.etc / "a", b"stock secret\n", mode=0o640)
    host.apply({"a": "1\n"})
    host.apply({"a": "2\n"})
    for path in [host.state, *host.state.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


names = st.sampled_from(["a", "b", "d/a", "d/e/b"])
contents = st.text(max_size=20).filter(lambda text: "\r" not in text)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(names, contents), max_size=5))
def test_any_sequence_of_trees_leaves_exactly_the_last_one(
    tmp_path_factory: pytest.TempPathFactory, sequence: list[dict[str, str]]
) -> None:
    host = Host(tmp_path_factory.mktemp("host"))
    for files in [*sequence, {}]:
        host.apply(files)
        assert host.files() == files
        assert not host.apply(files).changed
    assert list(host.etc.iterdir()) == []


# --- secrets ---


def test_the_diff_shows_texts_but_not_of_secret_files(host: Host) -> None:
    secret = [Attribute("*secret", OWNER, GROUP, 0o600, secret=True)]
    host.apply({"secret": "password = hunter22\n", "open": "a = 1\n"}, attributes=secret)
    result = host.apply({"secret": "password = hunter33\n", "open": "a = 2\n"}, attributes=secret)
    assert {"before": "a = 1\n", "after": "a = 2\n"}.items() <= result.diff[0].items()
    assert "hunter" not in json.dumps(vars(result))
    assert result.diff[1]["before"] != result.diff[1]["after"]
    assert "hunter" not in json.dumps(vars(host.apply({}, attributes=secret)))


def test_secrets_do_not_appear_in_errors(host: Host) -> None:
    secret = [Attribute("*secret", OWNER, GROUP, 0o600, secret=True)]
    files = {"secret": 'password = "hunter22";\n'}
    with pytest.raises(TreeError, match="failed") as caught:
        host.apply(files, attributes=secret, apply=[["sh", "-c", f"cat {host.etc}/secret; exit 1"]])
    assert "hunter22" not in str(caught.value)
    assert "password" in str(caught.value)


# --- transaction ---


@needs_namespaces
def test_a_check_sees_the_new_files_under_their_real_names(host: Host) -> None:
    (host.etc / "theirs").write_text("theirs\n")
    (host.etc / "theirs").chmod(0o604)
    (host.etc / "link").symlink_to("theirs")
    host.apply({"old": "x\n"})
    script = f"cd {host.etc}; cat a d/b theirs link; stat -c %a theirs; test ! -e old; echo wild > stray"
    look = [["sh", "-ec", f"{{ {script}; }} > {host.root}/seen"]]
    host.apply({"a": "1\n", "d/b": "2\n"}, check=look, directories=[str(host.etc)])
    assert (host.root / "seen").read_text() == "1\n2\ntheirs\ntheirs\n604\n"
    assert "stray" not in host.files()


@needs_namespaces
def test_a_failed_check_leaves_everything_as_it_was(host: Host) -> None:
    host.apply({"a": "1\n"})
    before = host.everything()
    for check_mode in (False, True):
        with pytest.raises(TreeError, match=r"(?s)check 'grep -q 1 .*' failed \(1\)"):
            host.apply({"a": "2\n"}, check=[["grep", "-q", "1", f"{host.etc}/a"]], directories=[str(host.etc)], check_mode=check_mode)
    assert host.everything() == before
    assert str(host.etc) not in Path("/proc/self/mounts").read_text()


@needs_namespaces
def test_a_link_out_of_the_stage_does_not_lead_the_checks_to_write_live_files(host: Host) -> None:
    (host.root / "outside").mkdir()
    (host.etc / "d").symlink_to(host.root / "outside")
    with pytest.raises(TreeError):
        host.apply({"d/a": "1\n"}, check=[["false"]], directories=[str(host.etc)])
    assert list((host.root / "outside").iterdir()) == []


@needs_namespaces
def test_checks_do_not_run_when_nothing_changed(host: Host) -> None:
    host.apply({"a": "1\n"})
    host.apply({"a": "1\n"}, check=[["false"]])


@needs_namespaces
def test_a_directory_made_for_the_checks_goes_again_when_they_fail(host: Host) -> None:
    with pytest.raises(TreeError):
        host.apply({"new/a": "1\n"}, check=[["false"]], directories=[f"{host.etc}/new"])
    assert not (host.etc / "new").exists()


def test_a_missing_checker_is_an_error_and_a_note_in_check_mode(host: Host) -> None:
    result = host.apply({"a": "1\n"}, check=[["no-such-checker", "-t"]], check_mode=True)
    assert result.notes == ["not run: no-such-checker -t: no-such-checker is not installed yet"]
    with pytest.raises(TreeError, match="not installed"):
        host.apply({"a": "1\n"}, check=[["no-such-checker", "-t"]])
    assert host.files() == {}


def test_a_failed_probe_puts_everything_back(host: Host) -> None:
    write_atomic(host.etc / "stock", b"stock\n")
    host.apply({"a": "1\n", "gone": "x\n"})
    before = host.files()
    with pytest.raises(TreeError, match=r"(?s)probe command 'false' failed.*previous configuration is back, but: probe"):
        host.apply({"a": "2\n", "b/c": "3\n", "stock": "ours\n"}, probe=[Probe(command=("false",))], probe_timeout=0.3)
    assert host.files() == before
    assert not (host.etc / "b").exists()


def test_a_rollback_brings_back_what_was_in_a_directory_of_its_own(host: Host) -> None:
    files = {"a": "1\n", "own/deep/b": "2\n"}
    host.apply(files)
    with pytest.raises(TreeError, match="The previous configuration is back"):
        host.apply({"a": "9\n"}, probe=[Probe(command=("false",))], probe_timeout=0.3)
    assert host.files() == files
    assert not (host.state / "journal").exists()
    host.apply({"a": "9\n"})
    assert not (host.etc / "own").exists()


def test_after_a_rollback_the_proven_tree_needs_nothing(host: Host) -> None:
    host.apply({"a": "1\n"})
    good = Probe(command=("grep", "-q", "1", f"{host.etc}/a"))
    with pytest.raises(TreeError, match="The previous configuration is back and answers"):
        host.apply({"a": "2\n"}, probe=[good], probe_timeout=3)  # time enough for the one that answers, too
    assert not host.apply({"a": "1\n"}, probe=[good]).changed
    assert not (host.state / "journal").exists()


def test_a_failed_first_installation_fails_clearly_and_leaves_no_files(host: Host) -> None:
    with pytest.raises(TreeError, match=r"(?s)probe command 'false' failed.*never had this one live"):
        host.apply({"a": "1\n"}, probe=[Probe(command=("false",))], probe_timeout=0.1)
    assert host.files() == {}
    assert host.apply({"a": "1\n"}).changed


def test_a_failed_apply_puts_everything_back(host: Host) -> None:
    host.apply({"a": "1\n"})
    with pytest.raises(TreeError, match="apply 'grep -q 1"):
        host.apply({"a": "2\n"}, apply=[["grep", "-q", "1", f"{host.etc}/a"]])
    assert host.files() == {"a": "1\n"}


def test_a_write_that_fails_half_way_puts_everything_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.apply({"a": "1\n", "b": "1\n"})

    def full_disk(path: Path, entry: entries.Entry, put: Callable[[Path, entries.Entry], None] = entries.put_entry) -> None:
        if path.name == "b" and entry.data == b"2\n":
            raise OSError(28, "No space left on device", str(path))
        put(path, entry)

    monkeypatch.setattr(transaction, "put_entry", full_disk)
    with pytest.raises(TreeError, match="No space left"):
        host.apply({"a": "2\n", "b": "2\n"})
    assert host.files() == {"a": "1\n", "b": "1\n"}


def kill_during_apply(host: Host, files: dict[str, str]) -> None:
    """A run that dies between swap and activation."""
    child = os.fork()
    if child == 0:
        host.apply(files, apply=[["sh", "-c", "kill -9 $PPID"]])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_run_killed_after_the_swap_is_activated_by_the_next(host: Host) -> None:
    host.apply({"a": "1\n"})
    kill_during_apply(host, {"a": "2\n"})
    assert host.files() == {"a": "2\n"}
    count = [["sh", "-c", f"echo >> {host.root}/count"]]
    announced = host.apply({"a": "2\n"}, apply=count, check_mode=True)
    assert (announced.changed, announced.changed_paths) == (True, [])
    assert host.apply({"a": "2\n"}, apply=count).changed
    assert (host.root / "count").read_text() == "\n"
    assert not host.apply({"a": "2\n"}, apply=count).changed


def test_a_rollback_after_a_killed_run_goes_back_to_what_was_proven(host: Host) -> None:
    host.apply({"a": "1\n"})
    kill_during_apply(host, {"a": "2\n", "b": "x\n"})
    with pytest.raises(TreeError, match="is back and answers"):
        host.apply({"a": "3\n"}, probe=[Probe(command=("grep", "-q", "1", f"{host.etc}/a"))], probe_timeout=3)
    assert host.files() == {"a": "1\n"}
    assert not host.apply({"a": "1\n"}).changed


@needs_namespaces
def test_a_refused_tree_after_a_killed_run_goes_back_to_what_was_proven(host: Host) -> None:
    host.apply({"a": "1\n"})
    kill_during_apply(host, {"a": "2\n"})
    with pytest.raises(TreeError, match=r"(?s)check 'false' failed.*interrupted.*back and answers"):
        host.apply({"a": "3\n"}, check=[["false"]])
    assert host.files() == {"a": "1\n"}


def test_going_back_to_the_proven_tree_after_a_killed_run_leaves_no_trace(host: Host) -> None:
    host.apply({"a": "1\n"})
    kill_during_apply(host, {"a": "2\n", "b": "x\n"})
    assert host.apply({"a": "1\n"}).removed_paths == [str(host.etc / "b")]
    assert host.files() == {"a": "1\n"}
    assert not host.apply({"a": "1\n"}).changed
    assert not (host.state / "journal").exists()


def test_a_second_run_at_the_same_time_is_told_so(host: Host) -> None:
    with (host.root / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another Mailwright run"), host_lock(0.2, host.root / "lock"):
            pass


def test_the_lock_of_a_dead_run_does_not_block(host: Host) -> None:
    (host.root / "lock").write_text("")
    with host_lock(0, host.root / "lock"):
        pass


def test_a_new_content_of_a_watched_file_is_recorded_once_proven(host: Host) -> None:
    watched = host.root / "cert.pem"
    watch = [Watch(str(watched))]
    host.apply({"a": "1\n"}, watch=watch)
    watched.write_text("new")
    host.apply({"a": "1\n"}, watch=watch)
    assert json.loads((host.state / "manifest.json").read_text())["watched"] == {str(watched): watch_fingerprint(str(watched))}


# --- units ---

RUNNING = {"ActiveState": "active", "UnitFileState": "enabled", "CanReload": "yes"}
NGINX = Unit("nginx.service", "nginx.service", "reload", ("/etc/nginx/modules/*",))


@pytest.mark.parametrize(
    ("state", "pending", "watch_actions", "proven", "action"),
    [
        ({}, [], [], True, None),
        ({}, ["/etc/nginx/x"], [], True, "reload"),
        ({}, ["/etc/nginx/x", "/etc/nginx/modules/y"], [], True, "restart"),
        ({}, ["/etc/systemd/system/nginx.service.d/z.conf"], [], True, "restart"),
        ({}, ["/etc/systemd/system/nginx.service"], [], True, "restart"),
        ({}, ["/etc/systemd/system/other.service"], [], True, "reload"),
        ({}, ["/etc/nginx/x"], [], False, "restart"),
        ({}, [], [], False, None),
        ({}, [], [None], True, "reload"),
        ({}, [], ["restart"], True, "restart"),
        ({"CanReload": "no"}, ["/etc/nginx/x"], [], True, "restart"),
        ({"UnitFileState": "disabled"}, [], [], True, "enable"),
        ({"UnitFileState": "disabled"}, ["/etc/nginx/x"], [], True, "reload"),
        ({"UnitFileState": "static"}, [], [], True, None),
        ({"ActiveState": "inactive"}, [], [], True, "start"),
        ({"ActiveState": "failed"}, ["/etc/nginx/x"], [], True, "start"),
        ({"ActiveState": "reloading"}, [], [], True, None),
        ({"ActiveState": "inactive", "LoadState": "not-found"}, ["/etc/nginx/x"], [], False, "start"),
    ],
)
def test_a_unit_gets_the_least_that_a_change_needs(
    state: dict[str, str], pending: list[str], watch_actions: list[str | None], proven: bool, action: str | None
) -> None:
    states = {"nginx.service": RUNNING | state}
    assert plan_unit(NGINX, states, pending, watch_actions, proven) == action


def test_a_unit_whose_process_is_dead_is_started() -> None:
    unit = Unit("postfix.service", "postfix@-.service")
    states = {"postfix.service": RUNNING, "postfix@-.service": RUNNING | {"ActiveState": "failed"}}
    assert plan_unit(unit, states, [], [], True) == "start"


def test_a_drop_in_for_the_template_of_the_process_needs_a_restart() -> None:
    unit = Unit("postfix.service", "postfix@-.service")
    states = {"postfix.service": RUNNING, "postfix@-.service": RUNNING}
    assert plan_unit(unit, states, ["/etc/systemd/system/postfix@.service.d/x.conf"], [], True) == "restart"


def test_a_unit_is_left_alone_by_changes_that_do_not_concern_it() -> None:
    unit = Unit("a.service", "a.service", paths=("/etc/a/*",))
    assert plan_unit(unit, {"a.service": RUNNING}, ["/etc/b/x"], [], True) is None
    assert plan_unit(unit, {"a.service": RUNNING}, ["/etc/b/x", "/etc/a/x"], [], True) == "reload"


@pytest.mark.parametrize(
    ("before", "now", "active", "waited_for"),
    [("0", "4", "activating", True), ("0", "5", "activating", False), ("0", "5", "active", True), ("7", "11", "activating", True),
     ("7", "12", "activating", False), ("7", "5", "activating", False), ("", "", "activating", True)],
)  # fmt: skip
def test_a_unit_that_ends_again_and_again_is_not_waited_for(before: str, now: str, active: str, waited_for: bool) -> None:
    states = ({"a.service": {"NRestarts": count, "ActiveState": active}} for count in (before, now))
    assert first_restless(*states) == (None if waited_for else "unit a.service ends right after its start, 5 times in a row")


# --- probes ---


@pytest.fixture
def greeter(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A server that sends a greeting and then what it was sent; gives its port and its Unix socket."""
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    servers[1].bind(str(tmp_path / "socket"))
    servers[1].listen()

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"220-mail\r\n220 ready\r\n")
                connection.settimeout(2)
                try:
                    connection.sendall(connection.recv(100))
                except OSError:
                    continue

    threads = [threading.Thread(target=serve, args=[server]) for server in servers]
    for thread in threads:
        thread.start()
    yield servers[0].getsockname()[1], str(tmp_path / "socket")
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def soon() -> float:
    return time.monotonic() + 10


def test_a_probe_succeeds_when_the_right_answer_comes(greeter: tuple[int, str]) -> None:
    port, path = greeter
    assert attempt(Probe(port=port), soon()) is None
    assert attempt(Probe(port=port, expect="^220 "), soon()) is None
    assert attempt(Probe(socket=path, send="PING", expect="PING$"), soon()) is None
    assert attempt(Probe(command=("echo", "x"), expect="^x$"), soon()) is None


def test_a_probe_tells_what_came_instead(greeter: tuple[int, str]) -> None:
    port, path = greeter
    assert "220 ready" in str(attempt(Probe(port=port, expect="^554 "), soon()))
    assert "does not match" in str(attempt(Probe(socket=path, expect="^554 "), soon()))
    assert "wrong version" in str(attempt(Probe(port=port, tls=True), soon())).lower().replace("_", " ")
    assert "No such file" in str(attempt(Probe(socket="/no/such/socket"), soon()))
    assert "failed (1)" in str(attempt(Probe(command=("false",)), soon()))
    assert "failed (127)" in str(attempt(Probe(command=("no-such-command",)), soon()))
    assert "no end" in str(attempt(Probe(command=("sleep", "60")), time.monotonic() + 0.2))


# --- parameters ---

PARAMETERS = {
    "name": "test",
    "files": "{}",
    "directories": [],
    "attributes": [],
    "check": [],
    "apply": [],
    "units": [],
    "watch": [],
    "probe": [],
    "probe_timeout": 10.0,
    "settle": 1.0,
}
PROBE = {"port": None, "host": "127.0.0.1", "tls": False, "socket": None, "command": None, "send": None, "expect": None}


def test_every_fault_of_the_parameters_is_told_at_once() -> None:
    wrong = {
        "name": "../x",
        "files": json.dumps({"/etc/../x": "", "relative": ""}),
        "attributes": [{"path": "*", "owner": "root", "group": "root", "mode": "rw", "secret": False}],
        "check": [[]],
        "probe": [PROBE, PROBE | {"port": 25, "expect": "("}],
        "units": [{"name": "a.service", "process": None, "action": "reload", "restart_on": [], "paths": [], "refusal": "["}],
    }
    with pytest.raises(TreeError) as caught:
        parse(PARAMETERS | wrong)
    for word in ("../x'", "'/etc/../x'", "'relative'", "'rw'", "check", "exactly one", "expect '('", "refusal '['"):
        assert word in str(caught.value)


def test_numbers_in_commands_become_words() -> None:
    assert parse(PARAMETERS | {"check": [["sleep", 1]]}).check == [["sleep", "1"]]


# --- seals ---


@pytest.fixture
def sealed(host: Host) -> Callable[[], dict[str, str]]:
    """A tree that was applied with a seal; looks at what of it still stands."""
    watched = host.root / "watched"
    watched.write_text("old")
    account = {"owner": OWNER, "group": GROUP, "secret": False}
    request = {
        "name": "test",
        "files": json.dumps({str(host.etc / "a.conf"): "1\n", str(host.etc / "d" / "b.conf"): "2\n"}),
        "directories": [],
        "attributes": [{"path": "*/", "mode": "0755", **account}, {"path": "*", "mode": "0640", **account}],
        **{"check": [], "apply": [], "units": [], "probe": [], "probe_timeout": 1.0, "settle": 0.0},
        "watch": [{"path": str(watched), "action": None}],
        "seal": "s1",
    }
    request["attributes"][0]["path"] = f"{host.etc}/*/"
    host.request = request
    transact(parse(request), state=host.root / "trees" / "test", lock=host.root / "lock")
    return lambda: transaction.standing(host.root / "trees")


def test_an_untouched_tree_keeps_its_seal(host: Host, sealed: Callable[[], dict[str, str]]) -> None:
    before = host.everything()
    assert sealed() == {"test": "s1"}
    assert host.everything() == before


@pytest.mark.parametrize("damage", ["text", "mode", "gone", "directory", "watched", "interrupted", "manifest"])
def test_a_tree_that_somebody_touched_loses_its_seal(host: Host, sealed: Callable[[], dict[str, str]], damage: str) -> None:
    path = host.etc / "d" / "b.conf"
    state = host.root / "trees" / "test"
    match damage:
        case "text":
            path.write_text("3\n")
        case "mode":
            path.chmod(0o644)
        case "gone":
            path.unlink()
        case "directory":
            path.parent.chmod(0o700)
        case "watched":
            (host.root / "watched").write_text("new")
        case "interrupted":
            (state / "journal").mkdir()
            write_atomic(state / "journal" / "journal.json", json.dumps({"entries": {str(path): {"kind": "absent"}}}).encode())
        case "manifest":
            (state / "manifest.json").write_text("{")
    assert sealed() == {}


def test_a_seal_that_was_lost_comes_back_with_the_next_run(host: Host, sealed: Callable[[], dict[str, str]]) -> None:
    (host.etc / "a.conf").write_text("9\n")
    transact(parse({**host.request, "seal": "s2"}), state=host.root / "trees" / "test", lock=host.root / "lock")
    assert sealed() == {"test": "s2"}
    assert not transact(parse({**host.request, "seal": "s3"}), state=host.root / "trees" / "test", lock=host.root / "lock").changed
    assert sealed() == {"test": "s3"}


def test_a_check_that_needs_what_is_not_there_yet_is_left_out_of_a_dry_run(host: Host) -> None:
    needs = [str(host.etc / "of-another")]
    result = host.apply({"a": "1\n"}, check=[["false"]], needs=needs, check_mode=True)
    assert result.notes == [f"not run: false: {needs[0]} does not exist yet"]

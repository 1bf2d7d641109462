"""The canonical event: identifiers strictly, words for people leniently."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.adapters.detectors.canonical import MAX_DEPTH, MAX_EVENTS, parse_events
from broker.model.detection import Detection, DetectionKind
from broker.model.evidence import ProcessRef
from broker.model.strict import Malformed

FULL: dict[str, Any] = {
    "type": "lockstep.detector.code_load",
    "timestamp": "2026-10-02T09:14:07.118402Z",
    "data": {
        "detector": {
            "name": "lockstep-sensor",
            "version": "0.3",
            "instance": "node-7",
            "boot_id": "b1f6",
            "seq": 18231,
        },
        "kind": "memfd",
        "phase": "pre",
        "subject": {
            "node": "node-7",
            "boot_id": "b1f6",
            "pid": 48002,
            "start_ticks": 250728,
            "exec_seq": 3,
            "cgroup_id": 8123,
            "container_id": "containerd://3f9c1a77b0de",
            "pod_uid": "0b9d2c1e-0000",
            "namespace": "pay",
            "spiffe_id": None,
        },
        "object": {
            "sha256": "15" * 32,
            "path": "/tmp/.x/libx.so",
            "dev": "7:0",
            "inode": 2**64 - 1,
            "nlink": 1,
            "fs": "ext4",
            "size": 15016,
            "build_id": None,
        },
        "verdict": "not_in_manifest",
        "vendor": {"rule": "Fileless execution", "raw_sha256": "…", "anything": {"goes": [1, 2.5]}},
    },
}


def parse(event: object) -> tuple[Detection, ...]:
    return parse_events(json.dumps(event).encode(), detector="sensor", event_id="msg_1", sent_at=5.0)


def changed(path: str, value: object) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(json.dumps(FULL))
    *parents, last = path.split(".")
    section = event
    for parent in parents:
        section = section[parent]
    section[last] = value
    return event


def test_everything_has_its_place() -> None:
    (report,) = parse(FULL)
    assert (report.detector, report.event_id, report.sent_at) == ("sensor", "msg_1", 5.0)
    assert report.observed_at == pytest.approx(1790932447.118402)
    assert report.kind is DetectionKind.MEMFD
    assert report.rule == "Fileless execution"
    assert report.subject.process == ProcessRef(
        node="node-7",
        boot_id="b1f6",
        pid=48002,
        start_ticks=250728,
        exec_seq=3,
        container_id="3f9c1a77b0de",
        pod_uid="0b9d2c1e-0000",
    )
    assert (report.subject.namespace, report.subject.spiffe_id) == ("pay", "")
    assert report.object.digest == b"\x15" * 32
    assert (report.object.path, report.object.size) == ("/tmp/.x/libx.so", 15016)


def test_little_is_needed() -> None:
    (report,) = parse(
        {
            "type": FULL["type"],
            "timestamp": "2026-10-02T11:14:07+02:00",
            "data": {"kind": "exec", "subject": {}},
        }
    )
    assert report.subject.process == ProcessRef()
    assert (report.object.digest, report.rule) == (b"", "")
    assert report.observed_at == 1790932447.0


@pytest.mark.parametrize("kind", list(DetectionKind))
def test_every_kind_is_known(kind: DetectionKind) -> None:
    assert parse(changed("data.kind", kind.value))[0].kind is kind


@pytest.mark.parametrize("kind", ["heartbeat", "sensor_blind"])
def test_silence_and_life_name_their_node(kind: str) -> None:
    event = changed("data.kind", kind)
    del event["data"]["subject"]["node"]
    with pytest.raises(Malformed):
        parse(event)


def test_a_spiffe_id_is_parsed() -> None:
    spiffe_id = "spiffe://lockstep.test/ns/pay/sa/payments"
    assert parse(changed("data.subject.spiffe_id", spiffe_id))[0].subject.spiffe_id == spiffe_id
    for junk in ("", "spiffe://td/a\n", "spiffe://td/../a", "https://x", 5):
        with pytest.raises(Malformed):
            parse(changed("data.subject.spiffe_id", junk))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("type", "lockstep.detector.other"),
        ("type", "LOCKSTEP.detector.code_load"),
        ("type", None),
        ("timestamp", "2026-10-02T09:14:07"),
        ("timestamp", "2026-10-02 09:14:07Z"),
        ("timestamp", "2026-W40-5T09:14:07Z"),
        ("timestamp", "0001-01-01T00:00:00+23:00x"),
        ("timestamp", "2026-13-02T09:14:07Z"),
        ("timestamp", "٢٠٢٦-10-02T09:14:07Z"),
        ("timestamp", 1790932447),
        ("data", []),
        ("data", None),
        ("data.kind", "LIBRARY"),
        ("data.kind", "unheard-of"),
        ("data.kind", ["library"]),
        ("data.phase", "during"),
        ("data.phase", {}),
        ("data.extra", 1),
        ("extra", 1),
        ("data.detector.extra", 1),
        ("data.detector.seq", -1),
        ("data.detector.seq", "18231"),
        ("data.subject", None),
        ("data.subject", []),
        ("data.subject.extra", 1),
        ("data.subject.pid", -1),
        ("data.subject.pid", 2**31),
        ("data.subject.pid", 1.0),
        ("data.subject.pid", True),
        ("data.subject.pid", "48002"),
        ("data.subject.start_ticks", 2**63),
        ("data.subject.start_ticks", int("9" * 4000)),
        ("data.subject.node", "a/b"),
        ("data.subject.node", " node-7"),
        ("data.subject.node", "node-7\n"),
        ("data.subject.node", "nоde-7"),  # Cyrillic
        ("data.subject.node", "n" * 254),
        ("data.subject.node", 7),
        ("data.subject.container_id", "containerd://"),
        ("data.subject.container_id", "a://b://c"),
        ("data.subject.pod_uid", "*"),
        ("data.object", []),
        ("data.object.extra", 1),
        ("data.object.sha256", "AB" * 32),
        ("data.object.sha256", "ab" * 31),
        ("data.object.sha256", "ab" * 31 + " ab"),
        ("data.object.sha256", "sha256:" + "ab" * 32),
        ("data.object.sha256", ""),
        ("data.object.size", -1),
        ("data.object.path", 5),
        ("data.verdict", 5),
        ("data.vendor", []),
        ("data.vendor.rule", {}),
    ],
)
def test_what_does_not_fit_is_refused(path: str, value: object) -> None:
    with pytest.raises(Malformed):
        parse(changed(path, value))


@pytest.mark.parametrize(
    "path", ["/tmp/a\nb", "/tmp/\u202egnp.so", "/tmp/\udcff", "x" * 100_000, "/tmp/\x00"]
)
def test_a_hostile_path_never_gets_its_report_refused(path: str) -> None:
    (report,) = parse(changed("data.object.path", path))
    assert report.object.path.isprintable()
    assert 0 < len(report.object.path) <= 4096


def test_deep_nesting_is_refused_even_where_anything_goes() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(Malformed, match="nested"):
        parse(changed("data.vendor.deep", deep))


class TestBatch:
    def test_each_event_has_an_id_of_its_own(self) -> None:
        reports = parse({"events": [FULL, changed("data.kind", "exec")]})
        assert [report.event_id for report in reports] == ["msg_1/0", "msg_1/1"]
        assert [report.kind for report in reports] == [DetectionKind.MEMFD, DetectionKind.EXEC]

    @pytest.mark.parametrize(
        "batch",
        [
            {"events": []},
            {"events": None},
            {"events": {}},
            {"events": [FULL], "type": "x"},
            {"events": [FULL, {}]},
            {"events": [{"events": [FULL]}]},
            {"events": [1] * (MAX_EVENTS + 1)},
        ],
    )
    def test_a_batch_holds_or_falls_as_one(self, batch: object) -> None:
        with pytest.raises(Malformed):
            parse(batch)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "timestamp", "data", "kind", "subject", "object", "events", "vendor"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_parsed_or_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        parse(value)


@given(
    st.sampled_from(["data.subject", "data.object", "data.detector"]).flatmap(
        lambda path: st.tuples(
            st.just(path),
            st.dictionaries(
                st.sampled_from(sorted({**FULL["data"]["subject"], **FULL["data"]["object"]})),
                st.none() | st.integers() | st.text(max_size=10) | st.lists(st.none(), max_size=1),
            ),
        )
    )
)
def test_any_section_is_parsed_or_malformed(change: tuple[str, dict[str, Any]]) -> None:
    try:
        (report,) = parse(changed(*change))
    except Malformed:
        return
    assert report.subject.process.node.isascii()
    assert "/" not in report.subject.process.boot_id

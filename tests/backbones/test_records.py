"""Public weights: the records say what the libraries say, and fetching leaves nothing damaged behind."""

import hashlib
import io
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save

import vertebra
from vertebra import InputError
from vertebra.backbones.contract import Preprocessing
from vertebra.backbones.records import (
    TIMM_TOP1,
    WeightsRecord,
    find_record,
    public_records,
    trained_on_imagenet1k_alone,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.num_batches_tracked": torch.tensor(7)}


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `cut` are paths whose body ends halfway, `requests` is what came in."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.server.files.get(self.path)
        self.send_response(404 if body is None else 200)
        if body is None and "/resolve/" in self.path:
            self.send_header("X-Error-Code", "EntryNotFound")
        if body is not None:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET" and body:
            self.wfile.write(body[: len(body) // 2] if self.path in self.server.cut else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine, and caches of torch.hub and huggingface_hub that are empty."""
    from huggingface_hub import constants

    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def cached(tmp_path: Path) -> list[str]:
    """Every file with content in the caches; locks and notes of what the hub does not have are none."""
    names = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 100]
    return sorted(str(path.relative_to(tmp_path)) for path in names if path.name != "CACHEDIR.TAG")


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def assert_same(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def message(record: WeightsRecord) -> str:
    with pytest.raises(InputError) as caught:
        record.fetch()
    text = str(caught.value)
    assert text.startswith(f"{record.url} cannot be fetched: ")
    assert text.endswith("; download it elsewhere and give the file as the weights (`--weights FILE`)")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("checked", [True, False])
def test_a_good_file_is_fetched_once(server: Server, name: str, checked: bool) -> None:
    body = save(STATE) if name.endswith("safetensors") else saved({"state_dict": STATE})
    server.files[f"/{name}"] = body
    digest = hashlib.sha256(body).hexdigest()[:8] if checked else None
    record = WeightsRecord("mine", f"{server.url}/{name}", "me", sha256=digest)
    assert_same(record.fetch())
    assert_same(record.fetch())
    assert server.requests == [f"GET /{name}"]


def test_a_file_of_torchs_naming_is_shared_with_torch(server: Server, tmp_path: Path) -> None:
    body = saved(STATE)
    digest = hashlib.sha256(body).hexdigest()[:8]
    name = f"net-{digest}.pth"
    server.files[f"/{name}"] = body
    assert_same(WeightsRecord("mine", f"{server.url}/{name}", "me", sha256=digest).fetch())
    assert cached(tmp_path) == [f"hub/checkpoints/{name}"]
    assert_same(torch.hub.load_state_dict_from_url(f"{server.url}/{name}", check_hash=True, weights_only=True))
    assert len(server.requests) == 1


def test_two_publishers_may_use_one_file_name(server: Server) -> None:
    server.files = {"/a/model.pth": saved({"a": torch.ones(1)}), "/b/model.pth": saved({"b": torch.ones(1)})}
    for folder in ("a", "b", "a"):
        assert list(WeightsRecord("mine", f"{server.url}/{folder}/model.pth", "me").fetch()) == [folder]


@pytest.mark.parametrize("name", ["net-{}.pth", "net.pth", "net-00000000.pth"])
def test_a_wrong_checksum(server: Server, tmp_path: Path, name: str) -> None:
    good, bad = saved(STATE), saved({"conv1.weight": torch.zeros(2, 3)})
    digest = hashlib.sha256(good).hexdigest()[:8]
    name = name.format(digest)
    server.files[f"/{name}"] = bad
    record = WeightsRecord("mine", f"{server.url}/{name}", "me", sha256=digest)
    text = message(record)
    assert digest in text
    assert hashlib.sha256(bad).hexdigest() in text
    assert cached(tmp_path) == []
    server.files[f"/{name}"] = good
    assert_same(record.fetch())


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    body = saved(STATE)
    digest = hashlib.sha256(body).hexdigest()[:8]
    server.files[f"/net-{digest}.pth"] = body
    record = WeightsRecord("mine", f"{server.url}/net-{digest}.pth", "me", sha256=digest)
    record.fetch()
    path = tmp_path / "hub" / "checkpoints" / f"net-{digest}.pth"
    path.write_bytes(saved({"conv1.weight": torch.zeros(2, 3)}))
    assert_same(record.fetch())
    assert path.read_bytes() == body


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_cut_connection(server: Server, tmp_path: Path, checked: bool, name: str) -> None:
    body = saved(STATE) if name == "net.pth" else save(STATE)
    server.files[f"/{name}"] = body
    server.cut.add(f"/{name}")
    digest = hashlib.sha256(body).hexdigest() if checked else None
    record = WeightsRecord("mine", f"{server.url}/{name}", "me", sha256=digest)
    message(record)
    assert cached(tmp_path) == []
    server.cut.clear()
    assert_same(record.fetch())


def test_what_is_not_there(server: Server, tmp_path: Path) -> None:
    assert "404" in message(WeightsRecord("mine", f"{server.url}/absent.pth", "me"))
    with socket.socket() as held:  # bound and not listening: nobody answers at this port
        held.bind(("127.0.0.1", 0))
        assert "refused" in message(WeightsRecord("mine", f"http://127.0.0.1:{held.getsockname()[1]}/x.pth", "me"))
    assert "unknown url type" in message(WeightsRecord("mine", "gone.pth", "me"))
    assert cached(tmp_path) == []


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_a_file_that_is_no_state_dict(server: Server, tmp_path: Path) -> None:
    trace = tmp_path / "the payload ran"
    for content in (
        pickle.dumps(Payload(trace), protocol=2),
        saved({"epoch": 3}),
        saved({}),
        b"<html>Log in first</html>" * 9,
    ):
        server.files["/net.pth"] = content
        record = WeightsRecord("mine", f"{server.url}/net.pth", "me")
        assert re.search("the file (cannot be read as weights|holds no state dict)", message(record))
        assert cached(tmp_path) == []
    assert not trace.exists()
    server.files["/net.pth"] = saved(STATE)
    assert_same(record.fetch())


def test_the_hub_and_then_without_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/timm/x/resolve/main/model.safetensors"] = save(STATE)
    record = WeightsRecord("timm_x", "hf-hub:timm/x", "timm")
    assert_same(record.fetch())
    count = len(server.requests)
    assert_same(record.fetch())
    assert len(server.requests) == count
    server.shutdown()
    server.server_close()
    assert_same(record.fetch())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same(record.fetch())
    message(WeightsRecord("timm_y", "hf-hub:timm/y", "timm"))


def test_the_hub_at_a_revision_and_with_pickled_tensors(server: Server) -> None:
    server.files["/timm/x/resolve/v2/pytorch_model.bin"] = saved(STATE)
    record = WeightsRecord("timm_x", "hf-hub:timm/x@v2", "timm")
    assert_same(record.fetch())
    count = len(server.requests)
    assert_same(record.fetch())
    assert len(server.requests) == count


def test_what_the_hub_does_not_have(server: Server, tmp_path: Path) -> None:
    record = WeightsRecord("timm_x", "hf-hub:timm/x", "timm")
    assert "404" in message(record)
    assert cached(tmp_path) == []
    server.files["/timm/x/resolve/main/model.safetensors"] = save(STATE)
    assert_same(record.fetch())


def test_damage_from_the_hub_does_not_stay(server: Server, tmp_path: Path) -> None:
    path = "/timm/x/resolve/main/model.safetensors"
    good = save(STATE)
    record = WeightsRecord("timm_x", "hf-hub:timm/x", "timm")
    server.files[path] = b"<html>Log in first</html>" * 9
    assert "cannot be read as weights" in message(record)
    assert cached(tmp_path) == []
    server.files[path] = good
    assert_same(record.fetch())

    checked = WeightsRecord("timm_x", "hf-hub:timm/x", "timm", sha256=hashlib.sha256(good).hexdigest()[:12])
    server.files[path] = save({"conv1.weight": torch.zeros(2, 3)})
    for file in (tmp_path / "hf").rglob("model.safetensors"):
        file.resolve().write_bytes(server.files[path])
    assert f"sha256 does not begin with {checked.sha256}" in message(checked)
    assert cached(tmp_path) == []
    server.files[path] = good
    assert_same(checked.fetch())


def test_a_cut_connection_to_the_hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub waits between its own attempts
    path = "/timm/x/resolve/main/model.safetensors"
    server.files[path] = save(STATE)
    server.cut.add(path)
    record = WeightsRecord("timm_x", "hf-hub:timm/x", "timm")
    message(record)
    assert cached(tmp_path) == []
    server.cut.clear()
    assert_same(record.fetch())


def test_importing_the_records_stays_light() -> None:
    code = (
        "import sys, vertebra.backbones.records as r; assert r.public_records('resnet110') == ();"
        "print([m for m in ('timm', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torchvisions_records() -> None:
    first, second = [r for r in public_records("resnet50") if r.source == "torchvision"]
    # The figures and the files as torchvision's documentation lists them.
    assert (first.tag, first.top1, first.sha256) == ("torchvision_v2", 80.858, "11ad3fa6")
    assert first.url == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert (second.tag, second.top1, second.sha256) == ("torchvision_v1", 76.13, "0676ba61")
    assert second.url == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert first.licence == "BSD-3-Clause"
    assert first.input_size == 224
    assert first.preprocessing == Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_every_whole_classifier_of_torchvision_is_there() -> None:
    for name in set(TIMM_TOP1) & set(torchvision.models.list_models()):
        urls = {w.url for w in torchvision.models.get_model_weights(name) if w.name != "IMAGENET1K_FEATURES"}
        assert {r.url for r in public_records(name) if r.source == "torchvision"} == urls
    assert not any("features" in record.url for record in public_records("vgg16"))


def test_timms_records() -> None:
    by_tag = {record.tag: record for record in public_records("resnet50")}
    a1 = by_tag["timm_a1_in1k"]
    assert a1.url == "hf-hub:timm/resnet50.a1_in1k"
    assert (a1.source, a1.licence, a1.top1, a1.input_size) == ("timm", "apache-2.0", 81.24, 288)
    assert not any(tag.startswith("timm_tv") for tag in by_tag)  # torchvision's own files
    assert by_tag["timm_bamboo"].top1 is None
    assert public_records("resnet50")[-1].tag == "timm_bamboo"
    # timm trained its pre-activation networks on values in [-1, 1].
    (record,) = public_records("resnetv2_50")
    assert (record.tag, record.top1) == ("timm_a1h_in1k", 81.406)
    assert record.preprocessing == Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_every_figure_belongs_to_weights_that_timm_has() -> None:
    from timm.models import get_arch_pretrained_cfgs

    for name, figures in TIMM_TOP1.items():
        configs = {config.tag: config for config in get_arch_pretrained_cfgs(name).values() if config.has_weights}
        assert configs
        assert set(figures) <= set(configs)
        for tag, (top1, size) in figures.items():
            known = {configs[tag].input_size[-1], (configs[tag].test_input_size or (0,))[-1]}
            assert size in known, (name, tag)
            assert 60 < top1 < 90


def test_names_with_records_are_the_networks_of_these_names() -> None:
    import timm

    for name in TIMM_TOP1:
        with torch.device("meta"):
            ours, theirs = vertebra.create_backbone(name), timm.create_model(name)
        head = ("fc.", "head.", "classifier.", "pre_logits.")
        shapes = [value.shape for key, value in theirs.named_parameters() if not key.startswith(head)]
        assert sorted(value.shape for value in ours.parameters()) == sorted(shapes), name


def test_records_are_ordered_by_their_figures() -> None:
    for name in TIMM_TOP1:
        figures = [record.top1 or 0 for record in public_records(name)]
        assert figures == sorted(figures, reverse=True)
        assert figures
        assert len({record.tag for record in public_records(name)}) == len(figures)


def test_timm_names() -> None:
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, list_models

    for name in list_models():
        configs = [config for config in get_arch_pretrained_cfgs(name).values() if config.has_weights]
        records = public_records(f"timm/{name}")
        assert [record.tag for record in records] == [f"timm_{config.tag}" for config in configs]
        default = get_pretrained_cfg(name)
        if default and default.has_weights:
            assert records[0].tag == f"timm_{default.tag}"
    (record,) = public_records("timm/convnext_tiny.fb_in1k")
    assert record.url == "hf-hub:timm/convnext_tiny.fb_in1k"
    assert record.top1 is None
    assert public_records("timm/gcvit_base")[0].sha256 == "f009139b"  # a file of GitHub, named as torch names files
    assert public_records("timm/no_such_network") == ()
    assert public_records("timm/resnet50.no_such_tag") == ()


# resnet20 and wrn_28_10 are for CIFAR; timm's resnet26 has bottlenecks; densenet264d has a deep stem; the last could be
# anybody's own network with a name that torchvision uses too.
@pytest.mark.parametrize("name", ["resnet20", "wrn_28_10", "resnet26", "densenet264d", "efficientnet_b0"])
def test_names_without_public_weights(name: str) -> None:
    assert public_records(name) == ()
    with pytest.raises(InputError) as caught:
        find_record(name, "imagenet", ())
    assert str(caught.value) == (
        f"no public weights for {name!r}; train from scratch, or give a file as the weights (`--weights FILE`)"
    )


# The highest published top-1 among those trained on ImageNet-1k alone: by torchvision's documentation and by timm's
# results/results-imagenet.csv.
@pytest.mark.parametrize(
    ("name", "tag", "top1"),
    [
        ("resnet50", "timm_a1_in1k", 81.24),  # torchvision_v2: 80.858
        ("resnext101_32x8d", "torchvision_v2", 82.834),  # fb_swsl_ig1b_ft_in1k has 84.276, from Instagram's images
        ("resnext101_32x4d", "timm_gluon_in1k", 80.336),  # two others have more, with Instagram's and Flickr's images
        ("densenet121", "timm_ra_in1k", 76.486),  # torchvision_v1: 74.434
        ("vgg16_bn", "torchvision_v1", 73.36),  # the only one
        ("resnetv2_18", "timm_ra4_e3600_r224_in1k", 75.364),  # the only one
        ("timm/convnext_tiny", "timm_fb_in1k", None),  # timm's default has seen ImageNet-12k
    ],
)
def test_imagenet_is_the_best_that_saw_imagenet1k_alone(name: str, tag: str, top1: float | None) -> None:
    record = find_record(name, "imagenet", public_records(name))
    assert (record.tag, record.top1) == (tag, top1)


def test_tags_are_looked_up_exactly() -> None:
    records = public_records("resnet50")
    assert find_record("resnet50", "torchvision_v1", records).url.endswith("resnet50-0676ba61.pth")
    assert find_record("resnet50", "timm_fb_swsl_ig1b_ft_in1k", records).licence == "cc-by-nc-4.0"
    with pytest.raises(
        InputError, match=r"unknown weights tag of resnet50 'torchvision_v3'.*timm_a1_in1k.*torchvision_v2"
    ):
        find_record("resnet50", "torchvision_v3", records)
    elsewhere = public_records("timm/resnet50.fb_swsl_ig1b_ft_in1k")
    with pytest.raises(InputError, match=r"ImageNet-1k alone; choose a tag: timm_fb_swsl_ig1b_ft_in1k$"):
        find_record("timm/resnet50.fb_swsl_ig1b_ft_in1k", "imagenet", elsewhere)


@pytest.mark.parametrize(
    ("tag", "alone"),
    [
        ("torchvision_v1", True),
        ("timm_in1k", True),
        ("timm_tv2_in1k", True),
        ("timm_sail_in1k_384", True),
        ("torchvision_swag_e2e_v1", False),
        ("timm_swag_lc_in1k", False),
        ("timm_ns_jft_in1k_475", False),
        ("timm_ssld_stage1_in22k_in1k", False),
        ("timm_augreg2_in21k_ft_in1k", False),
        ("timm_sw_in12k_ft_in1k", False),
        ("timm_fb_wsl_ig1b_ft_in1k", False),
        ("timm_bamboo", False),
        ("timm_in21k", False),
        ("timm_dinov3_lvd1689m", False),
    ],
)
def test_which_tags_saw_imagenet1k_alone(tag: str, alone: bool) -> None:
    assert trained_on_imagenet1k_alone(tag) is alone

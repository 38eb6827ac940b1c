"""Models by name: what each kind of name gives, and the one line that says why one cannot be."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from stability_probe.errors import UsageError
from stability_probe.models import (
    check_model,
    make_model,
    model_names,
    model_size,
    normalization,
    num_params,
    suggest,
)
from stability_probe.user_code import late_imports

SHAPE = {"num_classes": 10, "img_size": 32}

SMALL = (
    "test_resnet",
    "test_efficientnet",
    "test_vit",
    "test_convnext",
    "test_nfnet",
    "resnet10t",
    "densenet121",
    "efficientnet_b0",
    "tinynet_e",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "mnasnet_small",
    "lcnet_035",
    "ghostnet_050",
    "regnetx_002",
    "regnety_002",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "gmlp_ti16_224",
    "levit_128s",
    "mobilevit_xxs",
    "xcit_nano_12_p16_224",
    "coatnet_pico_rw_224",
    "maxvit_pico_rw_256",
    "torchvision:mnasnet0_5",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "torchvision:mobilenet_v3_small",
    "torchvision:googlenet",
)

HEAVY = (
    "resnet50",
    "vgg11",
    "vgg11_bn",
    "nfnet_f0",
    "mixer_s32_224",
    "resmlp_12_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "deit3_small_patch16_224",
    "vit_base_patch16_224",
    "beit_base_patch16_224",
    "coatnet_nano_rw_224",
    "maxvit_tiny_tf_224",
    "cait_xxs24_224",
    "pvt_v2_b0",
    "torchvision:vit_b_16",
    "torchvision:swin_t",
)


def message_of(name: str, **shape: int) -> str:
    """The error of making and checking a model, which must be one line."""
    wanted = SHAPE | shape
    with pytest.raises(UsageError) as caught:
        check_model(make_model(name, **wanted), name, **wanted)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_trains(name: str) -> None:
    torch.manual_seed(0)
    model = make_model(name, **SHAPE)
    check_model(model, name, **SHAPE)
    assert model.training
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    nn.functional.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.fixture
def user_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, not on sys.path."""
    (tmp_path / "mynets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "given = {}\n"
        "def plain(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))\n"
        "def everything(**kwargs):\n"
        "    given.update(kwargs)\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(kwargs['num_classes']))\n"
        "def nothing():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))\n"
        "def number(num_classes):\n"
        "    return 3\n"
        "def broken():\n"
        "    raise ValueError('no\\nweights here')\n"
        "class Keeps(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.head, self.kept = nn.Linear(3072, num_classes), None\n"
        "    def forward(self, x):\n"
        "        if self.kept is None:\n"
        "            self.kept = torch.ones(3072)\n"
        "        return self.head(x.flatten(1) * self.kept)\n"
        "class Pair(Keeps):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x), x\n"
        "class Extra(Keeps):\n"
        "    def forward(self, x):\n"
        "        return (super().forward(x), x) if self.training else super().forward(x)\n"
        "class Stumbles(Keeps):\n"
        "    def forward(self, x):\n"
        "        assert not self.training, 'never trained'\n"
        "        return super().forward(x)\n"
        "class Lacks(Keeps):\n"
        "    def forward(self, x):\n"
        "        return self.head(x.no_such_shape)\n"
        "class Grey(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(1, 4, 3))\n"
        "class Detached(Keeps):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x).detach()\n"
        "class InPlace(Keeps):\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x).sigmoid()\n"
        "        y += y * y\n"
        "        return y.mul_(2)\n"
        "class Sparse(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Embedding(9, num_classes, sparse=True))\n"
        "    def forward(self, x):\n"
        "        return super().forward(torch.ones(2, dtype=torch.long))\n"
        "class Counts(Keeps):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(num_classes)\n"
        "        self.register_buffer('count', torch.zeros(()))\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            self.count = self.count + 1\n"
        "        return super().forward(x)\n"
        "def careless(num_classes):\n"
        "    torch.set_grad_enabled(False)\n"
        "    return plain(num_classes)\n"
        "class Unused(Keeps):\n"
        "    def forward(self, x):\n"
        "        return torch.ones(2, 10, requires_grad=True)\n"
        "class Quits(Keeps):\n"
        "    def forward(self, x):\n"
        "        raise SystemExit(5)\n"
        "def quits():\n"
        "    raise SystemExit(3)\n"
        "class Wide(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.LazyBatchNorm2d(), nn.Dropout(), nn.Flatten(),\n"
        "            nn.LazyLinear(num_classes))\n"
        "constant = 5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    return "mynets"


@pytest.mark.parametrize("name", SMALL)
def test_family_trains_on_small_images(name: str) -> None:
    assert_trains(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_heavy_family_trains_on_small_images(name: str) -> None:
    assert_trains(name)


def test_num_params_is_the_published_count() -> None:
    model = make_model("resnet18", num_classes=1000, img_size=224)
    assert num_params(model) == 11_689_512
    model.requires_grad_(False)
    assert num_params(model) == 0


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "torchvision:shufflenet_v2_x0_5"])
def test_weights_follow_the_callers_seed(name: str) -> None:
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(make_model(name, **SHAPE).state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert not all(torch.equal(made[0][key], made[2][key]) for key in made[0])


@pytest.mark.parametrize(
    ("name", "library"),
    [("resnet18", timm), ("torchvision:resnet18", torchvision)],
)
def test_prefix_picks_the_library(name: str, library: object) -> None:
    model = make_model(name, **SHAPE)
    assert type(model).__module__.startswith(library.__name__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "tokens"), [("vit_tiny_patch16_224", 5), ("deit_tiny_patch16_224", 5)]
)
def test_vit_is_made_for_the_image_size(name: str, tokens: int) -> None:
    """Four patches of 16 pixels in a 32-pixel image, and the class token."""
    assert make_model(name, **SHAPE).pos_embed.shape[1] == tokens


def test_one_channel() -> None:
    model = make_model("test_resnet", **SHAPE, in_chans=1)
    check_model(model, "test_resnet", **SHAPE, in_chans=1)
    assert "3 channels, not 1" in message_of("torchvision:squeezenet1_1", in_chans=1)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_pixels_beyond_the_last_whole_patch_are_not_dropped(name: str) -> None:
    message = message_of(name, img_size=40)
    assert "16x16 patches, which do not divide 40x40; use --img-size 32 or 48" in message
    assert message_of(name, img_size=8).endswith("use --img-size 16")


@pytest.mark.parametrize(
    ("name", "size"),
    [("halonet26t", 256), ("crossvit_tiny_240", 240), ("torchvision:alexnet", 224)],
)
def test_size_the_model_cannot_take(name: str, size: int) -> None:
    message = message_of(name)
    assert message.startswith(f"{name} does not take 32x32 images: ")
    assert message.endswith(f"; use --img-size {size}")
    assert len(message) < 300


def test_size_the_model_cannot_be_made_for() -> None:
    message = message_of("torchvision:vit_b_16", img_size=30)
    assert message.startswith("torchvision:vit_b_16 cannot be made for 30x30 images: ")


def test_check_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = make_model("test_resnet", **SHAPE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    check_model(model, "test_resnet", **SHAPE)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    model.eval()
    check_model(model, "test_resnet", **SHAPE)
    assert not model.training


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet188", "did you mean resnet18 "),
        ("EfficientNet-B0", "did you mean efficientnet_b0 "),
        ("alexnet", "did you mean torchvision:alexnet?"),
        ("mobilenet_v3_small", "did you mean torchvision:mobilenet_v3_small?"),
        ("torchvision:resnet10t", "did you mean resnet10t?"),
        ("torchvision:restnet18", "did you mean torchvision:resnet18 "),
        ("timm:resnet10t", "did you mean resnet10t?"),
        ("zzzzqqq", "see probe models '*vit*' ("),
        ("", "see probe models '*vit*' ("),
        ("torchvision:fcn_resnet50_zzz", "see probe models '*vit*' ("),
    ],
)
def test_unknown_name(name: str, hint: str) -> None:
    message = message_of(name)
    assert message.startswith(f"unknown model {name!r}; {hint}")


@pytest.mark.parametrize("tag", ["a1_in1k", "no_such_tag"])
def test_pretrained_tag_is_refused(tag: str) -> None:
    assert message_of(f"resnet18.{tag}").endswith("never loaded; use resnet18")


def test_suggestions_are_known_names() -> None:
    known = set(model_names())
    for name in ("resnet188", "vit", "swin", "mixer", "torchvision:vgg", "densenet"):
        assert 1 <= len(suggest(name)) <= 3
        assert set(suggest(name)) <= known


def test_names_classify_images() -> None:
    names = model_names()
    assert len(names) == len(set(names))
    assert {"resnet50", "vit_base_patch16_224", "torchvision:resnet50"} <= set(names)
    assert not [n for n in names if re.match("torchvision:(fcn|fasterrcnn|deeplab|raft|r3d)", n)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test_resnet", "batch"),
        ("test_efficientnet", "batch"),
        ("test_vit", "layer"),
        ("convnext_atto", "layer"),
        ("resnetv2_50x1_bit", "group"),
        ("test_nfnet", "none"),
        ("torchvision:squeezenet1_1", "none"),
        ("mobilevit_xxs", "mixed"),
    ],
)
def test_normalization_of_models(name: str, kind: str) -> None:
    assert normalization(make_model(name, **SHAPE)) == kind


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ((nn.BatchNorm1d(4),), "batch"),
        ((nn.SyncBatchNorm(4),), "batch"),
        ((timm.layers.BatchNormAct2d(4),), "batch"),
        ((timm.layers.LayerNorm2d(4),), "layer"),
        ((nn.GroupNorm(2, 4),), "group"),
        ((timm.layers.GroupNorm1(4), timm.layers.GroupNormAct(4, 2)), "group"),
        ((nn.RMSNorm(4), timm.layers.RmsNorm(4), timm.layers.RmsNorm2d(4)), "rms"),
        ((timm.layers.FrozenBatchNormAct2d(4),), "none"),
        ((nn.BatchNorm2d(4), nn.LayerNorm(4)), "mixed"),
        ((), "none"),
    ],
)
def test_normalization_of_layers(layers: tuple[nn.Module, ...], kind: str) -> None:
    assert normalization(nn.Sequential(nn.Linear(4, 4), *layers)) == kind


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224_in21k", "torchvision:googlenet"])
def test_nothing_is_printed_or_warned(
    name: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    make_model(name, **SHAPE)
    out, err = capfd.readouterr()
    assert (out, err, [str(w.message) for w in recwarn]) == ("", "", [])


def test_no_weights_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    for name in ("test_vit", "torchvision:squeezenet1_1"):
        make_model(name, **SHAPE)


def test_user_callable_gets_what_it_accepts(user_nets: str) -> None:
    path = list(sys.path)
    for name in ("plain", "Keeps"):
        model = make_model(f"{user_nets}:{name}", **SHAPE)
        check_model(model, f"{user_nets}:{name}", **SHAPE)
    make_model(f"{user_nets}:everything", **SHAPE, in_chans=3)
    assert sys.modules[user_nets].given == SHAPE | {"in_chans": 3}
    assert sys.path == path


@pytest.mark.parametrize("name", ["Keeps", "everything"])
def test_model_that_keeps_tensors_trains_after_the_check(user_nets: str, name: str) -> None:
    """What a first forward pass makes must not be an inference tensor."""
    model = make_model(f"{user_nets}:{name}", **SHAPE)
    check_model(model, name, **SHAPE)
    model(torch.randn(2, 3, 32, 32).requires_grad_()).sum().backward()


def test_the_check_leaves_a_buffer_that_is_replaced_as_it_was(user_nets: str) -> None:
    model = make_model(f"{user_nets}:Counts", **SHAPE)
    check_model(model, f"{user_nets}:Counts", **SHAPE)
    assert float(model.count) == 0.0


def test_a_callable_that_turns_gradients_off_turns_off_none_of_ours(user_nets: str) -> None:
    model = make_model(f"{user_nets}:careless", **SHAPE)
    assert torch.is_grad_enabled()
    check_model(model, f"{user_nets}:careless", **SHAPE)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("number", "mynets:number returned int, not a torch module"),
        ("broken", "mynets:broken raised ValueError: no weights here"),
        ("nothing", "returns [2, 7] for two images; it must return logits [2, 10]"),
        ("Pair", "returns tuple for two images"),
        ("Extra", "returns tuple in training; it must return logits [2, 10]"),
        ("Stumbles", "does not take 32x32 images in training: AssertionError: never trained"),
        (
            "Detached",
            "Detached cannot be trained by its logits: RuntimeError: element 0 of",
        ),
        ("InPlace", "InPlace cannot be trained by its logits: RuntimeError: one of the"),
        ("Unused", "mynets:Unused gives no parameter a gradient"),
        ("Sparse", "mynets:Sparse has a sparse gradient, which is not measured; use sparse=False"),
        ("Quits", "mynets:Quits does not take 32x32 images: SystemExit: 5"),
        ("quits", "mynets:quits raised SystemExit: 3"),
        ("constant", "mynets:constant is no callable"),
        ("missing", "cannot import mynets:missing (AttributeError"),
    ],
)
def test_user_callable_that_gives_no_model(user_nets: str, attribute: str, message: str) -> None:
    assert message in message_of(f"{user_nets}:{attribute}")


def test_the_users_own_model_is_left_as_it_was_and_takes_images_that_are_not_square(
    user_nets: str,
) -> None:
    name = f"{user_nets}:Wide"
    model = make_model(name, num_classes=10, img_size=6)
    check_model(model, name, num_classes=10, img_size=6, height=4)
    assert model[3].in_features == 3 * 4 * 6
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    check_model(model, name, num_classes=10, img_size=6, height=4)
    assert model.training
    assert int(model[0].num_batches_tracked) == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    with pytest.raises(UsageError, match="does not take 6x6 images: RuntimeError: mat1 and mat2"):
        check_model(model, name, num_classes=10, img_size=6)
    assert model_size(model, img_size=6, height=4).num_macs == 3 * 4 * 6 * 10


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (
            "mynets.plain",
            "unknown model 'mynets.plain'; for your own function write mynets:plain (",
        ),
        ("./mynets.py", "for your own function write mynets:callable ("),
        ("mynets:plan", "did you mean mynets:plain?"),
        ("mynets.py:plain", "leave out .py: mynets:plain"),
        ("nets/mine.py:plain", "leave out .py: nets.mine:plain"),
        ("mynet:plain", "use package.module:callable, importable from the working directory"),
    ],
)
def test_a_name_of_the_users_own_that_is_nearly_right(
    user_nets: str, typed: str, hint: str
) -> None:
    assert hint in message_of(typed)


def test_advice_for_the_users_own_model_follows_from_what_failed(user_nets: str) -> None:
    size = "use --img-size with the size your model is made for, or let it accept img_size"
    assert message_of(f"{user_nets}:plain", img_size=8).endswith(size)
    grey = message_of(f"{user_nets}:Grey")
    assert grey.endswith("images have 3 channels: let it accept in_chans")
    for name in ("Stumbles", "Lacks"):
        assert "img" not in message_of(f"{user_nets}:{name}")


def test_user_module_not_found() -> None:
    assert "No module named 'no_such_package'" in message_of("no_such_package.nets:make")


class _Attends(nn.Module):
    """Attention of 4x4 positions over themselves, three numbers each, then a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Contiguous and with an axis of heads, without which it would not be fused.
        tokens = (self.scale * images.flatten(2).transpose(1, 2)).unsqueeze(1).contiguous()
        mixed: torch.Tensor = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return mixed.mean(dim=(1, 2))


def test_multiply_adds_and_layers_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 5), nn.LayerNorm(5),
    )  # fmt: skip
    net[4].bias.requires_grad_(False)
    got = model_size(net, img_size=6)
    assert got.num_macs == 6 * 6 * 8 * 3 * 9 + 8 * 5
    assert got.num_params == (8 * 27 + 8) + 16 + 40 + 10
    assert (got.num_tensors, got.num_norm_layers, got.normalization) == (7, 2, "mixed")
    assert net.training, "left as it was"
    # scores and mixtures: 16 positions times 16 times 3 numbers, twice
    assert model_size(_Attends(), img_size=4).num_macs == 2 * 16 * 16 * 3


class _Queries(nn.Module):
    """A learned query a sample, as in attention pooling: a view of a parameter enters a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(1, 1, 3))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.layer = nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        queries: torch.Tensor = self.layer(self.query.expand(len(images), -1, -1))
        return queries[:, 0] * self.frozen


def test_multiply_adds_where_a_parameter_is_an_input() -> None:
    net = _Queries()
    assert model_size(net, img_size=6).num_macs == 3 * 5
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]


def test_the_path_of_imports_is_as_before_whatever_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a notebook the working directory comes first already."""
    before = ["", *sys.path]
    monkeypatch.setattr(sys, "path", list(before))
    with late_imports():
        assert sys.path == [*before, ""]
    assert sys.path == before

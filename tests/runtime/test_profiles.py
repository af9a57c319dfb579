"""Several optimisation profiles: how they are described, built and chosen. tests/gpu runs them."""

import pytest
import torch

import bridge
from bridge.errors import SpecError

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")

PROFILES = [{"batch": (1, 1, 1)}, {"batch": (2, 8, 16)}]


def spec(**settings) -> bridge.CompileSpec:
    image = bridge.Input(("batch", "length"), min_shape=(1, 4), opt_shape=(8, 6), max_shape=(16, 9))
    mask = bridge.Input(("batch",), min_shape=(1,), opt_shape=(8,), max_shape=(16,))
    return bridge.CompileSpec([image, mask], backend="onnxruntime", **settings)


class Net(torch.nn.Module):
    def forward(self, x, mask):
        return torch.softmax(x, dim=1) * mask.unsqueeze(1)


def test_every_profile_is_built():
    compiled = bridge.compile(torch.jit.script(Net().eval()), spec(profiles=PROFILES))
    first, second = bridge.inspect(compiled, layers=False).profiles
    assert first == {"x": ((1, 4), (1, 6), (1, 9)), "mask": ((1,), (1,), (1,))}
    assert second == {"x": ((2, 4), (8, 6), (16, 9)), "mask": ((2,), (8,), (16,))}
    for batch in (1, 3, 16):
        x, mask = torch.rand(batch, 5), torch.rand(batch)
        torch.testing.assert_close(compiled(x, mask), Net()(x, mask))


def test_one_profile_without_any():
    compiled = bridge.compile(torch.jit.script(Net().eval()), spec())
    assert bridge.inspect(compiled, layers=False).profiles == (
        {"x": ((1, 4), (8, 6), (16, 9)), "mask": ((1,), (8,), (16,))},
    )


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ([{"batsh": (1, 1, 1)}], r"profiles\[0\]\['batsh'\].*did you mean 'batch'"),
        ([{"batch": (1, 1, 1)}, {"batch": (1, 2, 17)}], r"profiles\[1\]\['batch'\]: 1 to 17 goes beyond"),
        ([{"batch": (2, 1, 1)}], "three sizes that do not fall"),
        ([{"batch": 3}], "three sizes"),
        ({"batch": (1, 1, 1)}, "a list of profiles"),
        ([[1]], "a dict of"),
        ([{}], "a dict of"),
    ],
)
def test_what_cannot_be_meant(profiles, message):
    with pytest.raises(SpecError, match=r"(?s)" + message):
        bridge.compile(torch.jit.script(Net().eval()), spec(profiles=profiles))


def test_profiles_of_static_inputs_are_refused():
    with pytest.raises(SpecError, match=r"profiles\[0\]\['batch'\]: no input has a dynamic dimension"):
        bridge.compile(torch.jit.script(Net().eval()), [(2, 4), (2,)], profiles=PROFILES, backend="onnxruntime")

"""Files against the programs that own their formats: transformers' directories, PyTorch's and numpy's archives.

For every architecture of the family, with random weights: transformers loads the directory that we write, we read the
one that it writes, and both give the same logits as the reference engine.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="an oracle of its own environment: tests/oracles/run.sh")
transformers = pytest.importorskip("transformers", reason="an oracle of its own environment: tests/oracles/run.sh")

from harness import formats  # noqa: E402
from harness.checkpoint import Checkpoint, expected_shapes  # noqa: E402
from harness.engine import Engine  # noqa: E402
from harness.errors import CheckpointError  # noqa: E402
from harness.formats import WriteOptions, hf_forward  # noqa: E402
from harness.model_config import PHI_2, Block, ModelConfig, RopeScaling  # noqa: E402

# Logits of up to about 25. As it stands: some hundred roundings of 2^-24 each. Lifted: see test_transformers.
BOUND, LIFTED = 1e-4, 1e-9
PLAIN = ModelConfig(48, 80, 3, 6, 2, 97, 64, is_tied=False)
LLAMA_3_1 = RopeScaling("llama3", 8.0, 1.0, 4.0, 16)
MODELS = {
    "llama-2": PLAIN,
    "llama-2-mha": replace(PLAIN, n_kv_heads=6),
    "llama-2-mqa": replace(PLAIN, n_kv_heads=1),
    "llama-3": replace(PLAIN, rope_theta=500000.0),
    "llama-3.1": replace(PLAIN, rope_theta=500000.0, rope_scaling=LLAMA_3_1),
    "llama-3.2": replace(PLAIN, rope_theta=500000.0, rope_scaling=replace(LLAMA_3_1, factor=32.0), is_tied=True),
    "linear": replace(PLAIN, rope_scaling=RopeScaling("linear", 4.0), norm_eps=1e-6),
    "tinyllama": replace(PLAIN, dim=64, n_heads=8, n_kv_heads=1),
    "mistral": replace(PLAIN, block=Block(window=5)),
    "mistral-nemo": replace(PLAIN, head_size=10, block=Block(window=64), rope_theta=1e6),
    "qwen2": replace(PLAIN, block=Block(qkv_bias=True), norm_eps=1e-6, rope_theta=1e6, is_tied=True),
    "qwen3": replace(PLAIN, head_size=12, block=Block(qk_norm=True), norm_eps=1e-6, rope_theta=1e6),
    "phi-2": replace(PLAIN, dim=60, n_kv_heads=6, block=replace(PHI_2, rotary_dim=4)),
}
IDS = [int(one) for one in np.random.default_rng(7).integers(0, 97, 24)]


@pytest.fixture(params=MODELS)
def made(request):
    config = MODELS[request.param]
    values = np.random.default_rng(3)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        is_norm = "norm" in name and not name.endswith("bias")
        scale = 1.0 if name == "tok_embedding" else 0.25
        tensors[name] = (values.standard_normal(shape) * scale + is_norm).astype(np.float32)
    return Checkpoint(config, tensors)


def engine_logits(checkpoint):
    return Engine(checkpoint.config, checkpoint.tensors, dtype=np.float64).logits(IDS)


def their_logits(model, ids=IDS):
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].double().numpy()


def loaded(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")


def lift(model, path, n_positions=24):
    """Compute in float64, norms and rotary angles included."""
    document = json.loads((path / "config.json").read_text())
    cos, sin = hf_forward.rotation(document, document["head_dim"], n_positions)
    angles = tuple(torch.from_numpy(np.concatenate([one, one], axis=-1))[None] for one in (cos, sin))

    def norm(self, x):
        return self.weight * (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    for module in model.double().modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = norm.__get__(module)
    model.model.rotary_emb.forward = lambda x, position_ids: angles
    return model


@pytest.mark.parametrize("to", ["huggingface", "huggingface-bin"])
def test_transformers_loads_what_is_written(made, to, tmp_path, capsys, request):
    formats.write(made, tmp_path / "model", to=to)
    theirs, ours = their_logits(loaded(tmp_path / "model")), engine_logits(made)
    lifted = their_logits(lift(loaded(tmp_path / "model"), tmp_path / "model"))
    worst, exact = np.abs(theirs - ours).max(), np.abs(lifted - ours).max()
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {worst:.2g}, lifted {exact:.2g}, of {np.ptp(ours):.3g}")
    assert np.ptp(ours) > 1
    assert worst <= BOUND
    assert exact <= LIFTED


def test_what_transformers_writes_is_read(made, tmp_path):
    formats.write(made, tmp_path / "ours")
    model = loaded(tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    again = formats.read(tmp_path / "theirs")
    assert again.config == replace(made.config, rope_theta=again.config.rope_theta)
    for name, tensor in made.tensors.items():
        assert np.array_equal(again.tensors[name], tensor), name
    assert np.abs(their_logits(model) - engine_logits(again)).max() <= BOUND


def test_a_directory_that_transformers_made_of_its_own_configuration_is_read(made, tmp_path):
    """Its configuration classes write what they write, defaults left out or not."""
    formats.write(made, tmp_path / "ours")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "theirs")
    again = formats.read(tmp_path / "theirs")
    assert np.abs(their_logits(model) - engine_logits(again)).max() <= BOUND
    own = formats.detect(tmp_path / "theirs").own_logits(tmp_path / "theirs", IDS)
    assert np.abs(own - engine_logits(again)).max() <= 1e-9


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_loads_a_training_checkpoint_and_we_load_its_own(dtype, tmp_path):
    config = replace(PLAIN, is_tied=True)
    values = np.random.default_rng(3)
    tensors = {name: values.standard_normal(s).astype(np.float32) for name, s in expected_shapes(config).items()}
    formats.write(Checkpoint(config, tensors), tmp_path / "m.pt", options=WriteOptions(dtype=dtype))
    theirs = torch.load(tmp_path / "m.pt", weights_only=True)
    ours = formats.read(tmp_path / "m.pt")
    assert theirs["model_args"]["dim"] == config.dim
    w1 = theirs["model"]["layers.1.feed_forward.w1.weight"]
    assert w1.dtype == getattr(torch, dtype)
    assert np.array_equal(w1.float().numpy(), ours.tensors["layers.1.w_gate"])
    compiled = {f"_orig_mod.{name}": torch.nn.Parameter(value) for name, value in theirs["model"].items()}
    optimizer = torch.optim.AdamW(compiled.values(), lr=1e-3)
    sum(one.float().sum() for one in compiled.values()).backward()
    optimizer.step()
    state = {**theirs, "model": compiled, "optimizer": optimizer.state_dict(), "best_val_loss": torch.tensor(1.5)}
    torch.save(state, tmp_path / "again.pt")
    again = formats.read(tmp_path / "again.pt")
    name = "_orig_mod.layers.1.feed_forward.w1.weight"
    assert np.array_equal(again.tensors["layers.1.w_gate"], compiled[name].detach().float().numpy())


def test_torch_loads_metas_shard_and_two_shards_of_its_own_are_joined(tmp_path):
    values = np.random.default_rng(3)
    tensors = {name: values.standard_normal(s).astype(np.float32) for name, s in expected_shapes(PLAIN).items()}
    formats.write(Checkpoint(PLAIN, tensors), tmp_path / "one", to="meta")
    whole = torch.load(tmp_path / "one" / "consolidated.00.pth", weights_only=True)
    two = tmp_path / "two"
    two.mkdir()
    (two / "params.json").write_text((tmp_path / "one" / "params.json").read_text())
    for shard in range(2):
        part = {}
        for name, value in whole.items():
            axis = int(name.startswith("tok_embeddings.") or name.endswith(("wo.weight", "w2.weight")))
            part[name] = value if value.ndim == 1 else value.chunk(2, axis)[shard]
        torch.save(part, two / f"consolidated.{shard:02}.pth")  # chunks are views, with strides, of one storage
    again = formats.read(two)
    assert again.config == PLAIN
    for name, tensor in tensors.items():
        assert np.array_equal(again.tensors[name], tensor), name


def test_the_format_of_torch_before_1_6_is_refused_with_the_way_out(tmp_path):
    torch.save({"model": {}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6"):
        formats.read(tmp_path / "old.pt")


def test_numpy_loads_an_npz(made, tmp_path):
    formats.write(made, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        assert set(file) == {*made.tensors, "config"}
        assert all(np.array_equal(file[name], tensor) for name, tensor in made.tensors.items())

"""What llama2.c's own programs print: golden outputs, tokenizer vectors, and the models they need.

Every program that claims llama2.c's conventions can be judged with these. The digests were measured on
llama2.c at revision 350e04f, built with plain ``gcc -O3`` on x86-64 Linux (glibc 2.36), and reproduced byte
for byte by an independent engine. float32 text was the same under every optimisation tried, fast-math
included. int8 text is only defined for strict left-to-right float32 sums with the C library's expf, sinf,
cosf and powf.

``build_model(name, stories260k)`` makes any model named here from the published stories260K checkpoint.
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Golden:
    """One run: ``PROGRAM MODEL -z tok512.bin *args``, fed ``stdin``, exits 0 and prints these bytes."""

    name: str
    model: str
    args: tuple[str, ...]
    sha256: str  # of the complete stdout, final newline included
    stdin: str = ""


MODEL_SHA256 = {
    "stories260K": "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
    "eos-swap": "9f59e80b2004fa9562902c4cdc1206bb8cbe0fef187a2a989e2b2dfa1188af0c",
    "bos-swap": "3b6db32a5cbe33a2d8c150199d8513eb59ffa2599aca4aeefc1b57850686cb6a",
    "unk-swap": "7a8e31da8094b200b87473166de3e8cb085fc7044d82daef45d5fbeceb12dfdd",
    "seq32": "0a294d2fc8347efa6b171b717bdcdd828c9147f65db4153efa6793e050a7d03c",
    "eps-probe": "bb072c0086d1c50a059a309c950e6c14340730d88560f6f495bc7899ddc4cc3e",
    "rev-cls": "e6cb1002f6236af94df1e7976c91988e361b1e621dc4b6715777773253401bed",
    "q8-gs64": "4767083d20669c34b654cd94b60501da98b5e795dab7717e0f1b4f003c02117c",
    "q8-gs32": "5a37d012aaa035c561aa031e5009276d92d1b7ae8f37f0c58e39d9ff56f26a23",
    "q8-gs4": "c8c032d04f8a48b2c8f9b708cc571a895d45fe23521f47f542b897d64ad77c50",
    "q8-gs2": "c38b26e885073d8ffb434aa2f92fe5bdaca3e42ea7ec659ef5ee5b081d9cecb5",
    "q8-gs1": "2a53bcc4956ba7af3df2443c616231eb230d25583b2f5aef260a7b5abd32eb31",
}

TOK512_SHA256 = "037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312"


def build_model(name, stories260k):
    """Make the bytes of a model of MODEL_SHA256 from those of stories260K.bin, and check their digest."""
    if name == "stories260K":
        model = stories260k
    elif name.startswith("q8-gs"):
        model = quantize_checkpoint(stories260k, group=int(name.removeprefix("q8-gs")))
    else:
        model = _DERIVED[name](bytearray(stories260k))
    digest = hashlib.sha256(model).hexdigest()
    assert digest == MODEL_SHA256[name], f"{name}: built {digest}"
    return bytes(model)


# stories260K in version 0: seven header ints, then the embedding of 512 tokens by 64 floats.
_HEADER_BYTES, _ROW_BYTES, _VOCAB_SIZE = 28, 256, 512
_PERIOD = 426  # the id of ".", which the greedy story reaches early


def _row_start(row):
    return _HEADER_BYTES + row * _ROW_BYTES


def _swap_with_period(row):
    """Exchange two embedding rows, so that the model says ``row`` where it would say a full stop."""

    def swap(model):
        a, b = (slice(start, start + _ROW_BYTES) for start in (_row_start(row), _row_start(_PERIOD)))
        model[a], model[b] = model[b], model[a]
        return model

    return swap


def _seq32(model):
    struct.pack_into("<i", model, 24, 32)
    return model


def _embedding(model):
    return np.frombuffer(model, "<f4", _VOCAB_SIZE * 64, _HEADER_BYTES).reshape(_VOCAB_SIZE, 64).copy()


def _untie(model, classifier):
    struct.pack_into("<i", model, 20, -_VOCAB_SIZE)
    return model + classifier.tobytes()


def _eps_probe(model):
    """Shrink the embedding until the norm's eps shows in the text; the classifier keeps the full one."""
    embedding = _embedding(model)
    model[_HEADER_BYTES : _HEADER_BYTES + embedding.nbytes] = (embedding * np.float32(2**-8)).tobytes()
    return _untie(model, embedding)


def _rev_cls(model):
    return _untie(model, _embedding(model)[::-1])


_DERIVED = {
    "eos-swap": _swap_with_period(2),
    "bos-swap": _swap_with_period(1),
    "unk-swap": _swap_with_period(0),
    "seq32": _seq32,
    "eps-probe": _eps_probe,
    "rev-cls": _rev_cls,
}


def quantize_checkpoint(v0, group):
    """Convert a version 0 checkpoint to version 2: int8 in groups, norms in float32.

    Weights are divided by (largest magnitude / 127) of their group and rounded half to even; an all-zero
    group becomes zeros.
    """
    header = struct.unpack_from("<7i", v0)
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = header
    is_tied, vocab_size = vocab_size > 0, abs(vocab_size)
    head_dim = dim // n_heads
    kv_dim = head_dim * n_kv_heads
    pos = _HEADER_BYTES

    def tensors(count, size):
        nonlocal pos
        block = np.frombuffer(v0, "<f4", count * size, pos).reshape(count, size)
        pos += block.nbytes
        return list(block)

    embedding = tensors(1, vocab_size * dim)
    attn_norm = tensors(n_layers, dim)
    matrices = [m for rows in (dim, kv_dim, kv_dim, dim) for m in tensors(n_layers, rows * dim)]
    ffn_norm = tensors(n_layers, dim)
    matrices += [m for _ in range(3) for m in tensors(n_layers, hidden_dim * dim)]
    final_norm = tensors(1, dim)
    if not is_tied:
        tensors(2, seq_len * head_dim // 2)  # RoPE tables
        matrices += tensors(1, vocab_size * dim)

    head = struct.pack("<Ii7i?i", 0x616B3432, 2, *header[:5], vocab_size, seq_len, is_tied, group)
    out = [head.ljust(256, b"\0")]
    out += [norm.tobytes() for norm in (*attn_norm, *ffn_norm, *final_norm)]
    for values in (*embedding, *matrices):
        groups = values.reshape(-1, group)
        scales = np.abs(groups).max(axis=1) / np.float32(127)
        safe = np.where(scales == 0, np.float32(1), scales)
        out += [np.rint(groups / safe[:, None]).astype(np.int8).tobytes(), scales.tobytes()]
    return b"".join(out)


GOLDENS = (
    # The plain model.
    Golden(
        "G1",
        "stories260K",
        ("-t", "0.0", "-n", "200"),
        "f5a0e67db7424051520e7d8db9880b3dc2aa13577db570c28805c1b51c42eaf0",
    ),
    Golden(
        "G2",
        "stories260K",
        ("-t", "0.0"),
        "a3213f9ea026d75bf2993355ae334822d7c9d34328964c711ab030d3148e6cef",
    ),
    Golden(
        "G3",
        "stories260K",
        ("-t", "0", "-n", "0"),
        "e0c267ef267cb50130db210849536569e50920fbfdf130bc9784d6d5ae66aaad",
    ),
    Golden(
        "G4",
        "stories260K",
        ("-t", "1.0", "-p", "0.9", "-s", "133742"),
        "0d33d0d617b86488c85dd171d128cd7559d789a71bc80efb254577f8dc4750aa",
    ),
    Golden(
        "G5",
        "stories260K",
        ("-t", "1.0", "-p", "0.9", "-s", "42"),
        "8d0be72d466651e11b2299d2c631f1eedbfdb79ffa3b0f4abcc1c9b9bb12a1dc",
    ),
    Golden(
        "G6",
        "stories260K",
        ("-t", "1.0", "-p", "1.0", "-s", "42", "-n", "200"),
        "4f91b3d83ee7a24ec08689776a6d153d788f6cb10053c3b987b6117d399a1a7e",
    ),
    Golden(
        "G7",
        "stories260K",
        ("-t", "1.0", "-p", "0.95", "-s", "42", "-n", "200"),
        "036aeabb571c3df0083c9ebe8f5abbcfceba749485eacfcbf42e601768df682b",
    ),
    Golden(
        "G8",
        "stories260K",
        ("-t", "1.0", "-p", "0.95", "-s", "42", "-n", "200", "-i", "There was a big"),
        "318a6ccf14ae31011a032a29afadcdba885801fc8ae2ef977605a28f53c7596e",
    ),
    Golden(
        "G9",
        "stories260K",
        ("-t", "0.8", "-p", "0.9", "-s", "1337", "-n", "128", "-i", "One day, Lily met a Shoggoth"),
        "a5213d3167c8f8e9b08acec0685562ea67fb2252bda2a4f342651c096813c149",
    ),
    Golden(
        "G10",
        "stories260K",
        ("-t", "0.5", "-p", "0", "-s", "7", "-n", "100"),
        "23beeba199e9564cb62fb88d6a83b0cc997eafd22d3397395527f1816405328d",
    ),
    Golden(
        "G11",
        "stories260K",
        ("-t", "0", "-n", "64", "-i", "Once upon a time"),
        "acafc72b7b71228fa8f8bb998abafb3d2c5c8bcf5d1626e59b23b69f3bb11f7d",
    ),
    Golden(
        "G12",
        "stories260K",
        ("-t", "0", "-n", "48", "-i", "Zoë saw a 🦙"),
        "a57177ccbd76a75c2781cab412fb03b9b123d1524258e673b95f0b1f4ace233b",
    ),
    Golden(
        "G13",
        "stories260K",
        ("-t", "0", "-n", "48", "-i", "Line one\nLine\ttwo"),
        "8d49444f6deb7ee0178d60a67daff2081cb5a0dcd57d9115aba707ac050643e4",
    ),
    Golden(
        "G14",
        "stories260K",
        ("-t", "0", "-n", "5", "-i", "There was a big pretty grass"),
        "478aeb8f8f575954c2bf907ed74c6f4082b53a7c50dbf88754f0227ae4e793d6",
    ),
    Golden(
        "G15",
        "stories260K",
        ("-t", "0", "-n", "40", "-i", " "),
        "6ec966afddd4b30143c844b721cc3f5d0fc498707b2d3b60c6d3a8b94390c083",
    ),
    Golden(
        "G16",
        "stories260K",
        ("-t", "0", "-n", "40", "-i", "  Tom"),
        "0ccbc9f139df0080b42a7488538cf76c49b2773148dee6a5523f0769f0c0c797",
    ),
    Golden(
        "G17",
        "stories260K",
        ("-t", "1.0", "-p", "0.9", "-s", "1", "-n", "100"),
        "222db5f2155c7f67d6910399e3477f6e4d3e62ca621cdec79cc7210b394579a8",
    ),
    Golden(
        "G18",
        "stories260K",
        ("-t", "1.0", "-p", "0.9", "-s", "-1", "-n", "60"),
        "902304c3e9df95e45c5ad1902d4c6ece16a1e36ffad013f71dc694c46973329d",
    ),
    Golden(
        "G19",
        "stories260K",
        ("-t", "inf", "-p", "1", "-s", "1", "-n", "20"),
        "fd9a641d1ea6a801197f029fad8187349a85a1a31338d1fad2c2494bd9f575cd",
    ),
    Golden(
        "G20",
        "stories260K",
        ("-t", "inf", "-p", "0.5", "-s", "1", "-n", "40"),
        "a830c421bfb095c916a6f5a3f9a1de0fc2cd30b8704b7e33bd0a31350f6ac6f0",
    ),
    Golden(
        "G21",
        "stories260K",
        ("-t", "2.0", "-p", "0.5", "-s", "123", "-n", "60", "-i", "The dog"),
        "5ba630027beae1a268ce94e5fe88d775e2f27f177f65c2bd7f617ea13fd3e231",
    ),
    Golden(
        "G22",
        "stories260K",
        ("-t", "1.0", "-p", "0.1", "-s", "5", "-n", "60"),
        "907b5df551acab7e32c54414dbe01ef5a433583226ae221dcae51a34db052a6d",
    ),
    Golden(
        "G23",
        "stories260K",
        ("-t", "1.5", "-p", "1.0", "-s", "99", "-n", "60"),
        "1aa7ae698d170d0da699f4ffd31efa372fcfa9ff9563f62de08646bee8cba93d",
    ),
    Golden(
        "G24",
        "stories260K",
        ("-t", "1.0", "-p", "0.9", "-s", "3000000000", "-n", "60"),
        "94bfc867e84d4ac505e190966b0b04399c0c41adc1cc84a649b149536d8393ee",
    ),
    Golden(
        "G25",
        "stories260K",
        ("-t", "1.0", "-p", "0.9", "-s", "12", "-n", "0"),
        "301f761999f053f4c7f3e54e765bc58ae7b2ca0040b59ab28f9d12d27776111a",
    ),
    Golden(
        "G26",
        "stories260K",
        ("-t", "0", "-n", "40", "-i", "“Hi” café"),
        "d3e657c76db81554d4122f853b844aceb453bdc0afc70e79d4048b78a0645238",
    ),
    Golden(
        "G27",
        "stories260K",
        ("-t", "0", "-n", "40", "-i", "lllly oooo"),
        "48321ebcf4cd2df6c4d52e4cb2c65facf22d1615a1fd085c9b67ab1fabaf9258",
    ),
    Golden(
        "G28",
        "stories260K",
        ("-t", "0", "-n", "40", "-i", "here little"),
        "537542b64bc40884f04b12a864e112186611ddf8d9beae3d72eda88fac375958",
    ),
    Golden(
        "G29",
        "stories260K",
        ("-t", "0", "-n", "60", "-i", "The dog"),
        "b9d76536659995fa5e5267ced84b2acddae7872880d511ce941172e89a132757",
    ),
    Golden(
        "G30",
        "stories260K",
        ("-t", "1", "-p", "0", "-s", "42", "-n", "60"),
        "42866cf0cdee87342db529dd7d42c8f7619f63c0228fc04326fb9e5ba1bedf0a",
    ),
    Golden(
        "G31",
        "stories260K",
        ("-t", "0.8", "-p", "0.95", "-s", "-1", "-n", "60", "-i", "There was a big"),
        "505334a1da8b12f44b7357c5b1d9bc1f5086dcf377f3dc397e421db095345bb1",
    ),
    Golden(
        "G32",
        "stories260K",
        ("-t", "0.0001", "-p", "1", "-s", "1", "-n", "40"),
        "689968a7c1fbdbd23a0bc3e11346aec265a0c479e103c7e5324ed19c11544d5e",
    ),
    # Derived models.
    Golden("seq32", "seq32", ("-t", "0"), "f969e22e5853d54d7fff97fff16855451c22a400672036d7dc66f21eabcebf89"),
    Golden(
        "eps-probe",
        "eps-probe",
        ("-t", "0", "-n", "60"),
        "9874091e1483c28a0381d85dff41e460a26d8ab353c1499ffb1f6d56c3ab61bc",
    ),
    Golden(
        "rev-cls",
        "rev-cls",
        ("-t", "0", "-n", "60"),
        "7d0442bfd5062b157fe93badf37d7ecdd81f23b800b777a4f0934e2e9671a3c3",
    ),
    Golden(
        "eos-swap",
        "eos-swap",
        ("-t", "0", "-n", "60"),
        "3bd99c1a7d0487d0bc2ddcf6fe573aa7496ee7532a39ff544d6db36ff1c6d415",
    ),
    Golden(
        "bos-swap",
        "bos-swap",
        ("-t", "0", "-n", "60"),
        "3cb3d2718330a1b92ff4ac9a33edf2ea888f63c937024f1d4c1a6e75db9204f8",
    ),
    Golden(
        "unk-swap",
        "unk-swap",
        ("-t", "0", "-n", "60"),
        "d6e9c592dc665197f61b06c142fdf16092bddc9011ca9f9c94ee6a73eadb25e9",
    ),
    # Chat.
    Golden(
        "C1",
        "stories260K",
        ("-m", "chat", "-t", "0", "-n", "100"),
        "5d86ed0e5289a5f6055335dd059d7ec262e3a197fe5f71d09f4a3d1804b0e62b",
        stdin="sys\nHello there\nmore\n",
    ),
    Golden(
        "C2",
        "stories260K",
        ("-m", "chat", "-t", "0", "-n", "100", "-i", "Tell me a story", "-y", "You are nice"),
        "554d7e3aabe87fc33f3d5eab75b1fef8754b6913565839a9effe6287eb17d99d",
    ),
    Golden(
        "C3",
        "stories260K",
        ("-m", "chat", "-t", "0", "-n", "60", "-i", "Tell me a story", "-y", ""),
        "237b8186db28842bf31b2a9160206e7e39fad6340324960bc913ff0dd59ff529",
    ),
    Golden(
        "C4",
        "stories260K",
        ("-m", "chat", "-t", "1.0", "-p", "0.9", "-s", "42", "-n", "100", "-i", "Tell me a story", "-y", ""),
        "4a5ac404e4d827a5ec0eb7db0f66dc14084639898cb6af10039f1a692d8e2c2e",
    ),
    Golden(
        "C5",
        "eos-swap",
        ("-m", "chat", "-t", "0", "-n", "200", "-y", ""),
        "c7a103da0601705c9a61d7cfcd6927eb11a6df7463d3d24320260ce8c41e26e4",
        stdin="Who is Lily?\nWhat then?\n",
    ),
    Golden(
        "C6",
        "eos-swap",
        ("-m", "chat", "-t", "1", "-s", "42", "-n", "150", "-y", "", "-i", "Hi"),
        "207618031e8daacd7acd046f9a864a0d0e388188295469d20b1a8a767cb3454a",
        stdin="Who is Lily?\nWhat then?\n",
    ),
    Golden(
        "C7",
        "bos-swap",
        ("-m", "chat", "-t", "0", "-n", "100", "-y", ""),
        "9da004f1dd2d7a340a906e430a163aff0d2f60614e51baec531e6242d933a780",
        stdin="Who is Lily?\nWhat then?\n",
    ),
    # int8, by group size.
    Golden(
        "Q1",
        "q8-gs4",
        ("-t", "0", "-n", "200"),
        "d8693abb830c006046867974845bb5977e07e6311234f4b7ecbd5a310356aa0c",
    ),
    Golden(
        "Q2",
        "q8-gs4",
        ("-t", "1.0", "-p", "0.9", "-s", "42", "-n", "100"),
        "6628b477a461429b491ff940f170e384ae164f477860c2cc8975355e147fa538",
    ),
    Golden(
        "Q3",
        "q8-gs4",
        ("-t", "0", "-n", "60", "-i", "The dog"),
        "b9d76536659995fa5e5267ced84b2acddae7872880d511ce941172e89a132757",
    ),
    Golden(
        "Q4",
        "q8-gs64",
        ("-t", "0", "-n", "200"),
        "96c29fe94b270d6de6d15952400b326830e1e07680bea63f596cce1d0754cb28",
    ),
    Golden(
        "Q5",
        "q8-gs64",
        ("-t", "1.0", "-p", "0.9", "-s", "42", "-n", "100"),
        "8ca8505b19aaba734209e2080c54f8a0364af0d4c99bc062807c3356506380d1",
    ),
    Golden(
        "Q6",
        "q8-gs64",
        ("-t", "0", "-n", "60", "-i", "The dog"),
        "165f62f634ba51f1fd0ef3a536539340bdb838439ab447765e3d5863009af0fc",
    ),
    Golden(
        "Q7",
        "q8-gs32",
        ("-t", "0", "-n", "200"),
        "9117ae538108ce17d7bdd4f42f26868caaa6afb98d7dd177a335b2fcd74029b9",
    ),
    Golden(
        "Q8",
        "q8-gs2",
        ("-t", "0", "-n", "200"),
        "f5a0e67db7424051520e7d8db9880b3dc2aa13577db570c28805c1b51c42eaf0",
    ),
    Golden(
        "Q9",
        "q8-gs1",
        ("-t", "0", "-n", "200"),
        "f5a0e67db7424051520e7d8db9880b3dc2aa13577db570c28805c1b51c42eaf0",
    ),
)

# (text, ids with tok512.bin, ids with the 32000-piece tokenizer.bin), BOS on, EOS off; None: not measured.
ENCODINGS = (
    (b"", "1", "1"),
    (b" ", "1 410 410", "1 259"),
    (b"  ", "1 410 410 410", "1 1678"),
    (b"a", "1 261", "1 263"),
    (b"the", "1 265", "1 278"),
    (b"Once upon a time", "1 403 407 261 378", "1 9038 2501 263 931"),
    (b"There was a big", "1 291 276 286 261 370", "1 1670 471 263 4802"),
    (b"The dog", "1 291 400 428", "1 450 11203"),
    (
        b"One day, Lily met a Shoggoth",
        "1 385 328 432 317 284 316 261 301 415 414 428 428 309 415",
        "1 3118 2462 29892 365 2354 1539 263 1383 468 29887 720",
    ),
    (b"here", "1 281 276", "1 1244"),
    (b"little", "1 376", "1 2217"),
    (b"oooo", "1 334 347 414", "1 288 3634 29877"),
    (b"lllly", "1 278 306 421 422", "1 301 645 368"),
    ("“Hi”".encode(), "1 410 465 440 417 466", "1 1346 18567 30024"),
    ("café".encode(), "1 280 412 431 485", "1 274 28059"),
    (
        "Zoë saw a 🦙".encode(),
        "1 410 469 414 198 174 394 261 410 243 162 169 156",
        "1 17421 30083 4446 263 29871 243 162 169 156",
    ),
    ("naïve".encode(), "1 297 412 198 178 360", "1 1055 30085 345"),
    (
        b"Line one\nLine\ttwo",
        "1 307 271 411 353 411 13 438 271 411 12 413 424 414",
        "1 7407 697 13 3542 12 10184",
    ),
    (b"<s>", "1 410 504 419 505", "1 529 29879 29958"),
    (b"</s>", "1 410 504 492 419 505", "1 1533 29879 29958"),
    (b"<unk>", "1 410 504 379 433 505", "1 529 2960 29958"),
    (b"<0x41>", "1 410 504 477 444 484 475 505", "1 529 29900 29916 29946 29896 29958"),
    ("▁a".encode(), "1 410 229 153 132 412", "1 29871 229 153 132 29874"),
    ("日本".encode(), "1 410 233 154 168 233 159 175", "1 29871 30325 30346"),
    (b"!!!", "1 410 443 443 443", "1 1738 6824"),
    (b"2023", "1 410 479 477 479 472", "1 29871 29906 29900 29906 29941"),
    (b"hello  world", "1 281 306 414 410 263 304 341", "1 22172 29871 3186"),
    (b"  Tom", "1 410 410 274 287", "1 259 4335"),
    (b"A B", "1 410 447 368", "1 319 350"),
    (
        b"Lily's mom said, \"Lily, let's go to the park.\"",
        "1 317 439 419 357 336 432 313 438 310 432 278 316 439 419 298 414 267 265 282 295 433 426 436",
        "1 365 2354 29915 29879 16823 1497 29892 376 29931 2354 29892 1235 29915 29879 748 304 278 14089 1213",
    ),
    (
        b"[INST] Hi [/INST]",
        "1 410 508 442 458 437 434 509 320 417 410 508 492 442 458 437 434 509",
        "1 518 25580 29962 6324 518 29914 25580 29962",
    ),
    (
        b"[INST] <<SYS>>\nYou are nice\n<</SYS>>\n\nTell me a story [/INST]",
        "1 410 508 442 458 437 434 509 410 504 504 437 452 437 505 505 13 452 277 261 276 297 417 "
        "331 13 504 504 492 437 452 437 505 505 13 13 434 411 306 284 411 261 349 304 422 410 508 "
        "492 442 458 437 434 509",
        "1 518 25580 29962 3532 14816 29903 6778 13 3492 526 7575 13 29966 829 14816 29903 6778 "
        "13 13 29911 514 592 263 5828 518 29914 25580 29962",
    ),
    (bytes.fromhex("8080808080"), "1 410 131 131 131 131 131", "1 29871 131 131 131 131 131"),
    (bytes.fromhex("c3"), "1 410 198", "1 29871 198"),
    (bytes.fromhex("ff61"), "1 410 258 412", "1 29871 258 29874"),
    (bytes.fromhex("61e280"), "1 261 229 131", "1 263 229 131"),
    (bytes.fromhex("f09fa69980"), "1 410 243 162 169 156 131", "1 29871 243 162 169 156 131"),
    (bytes.fromhex("017f"), "1 410 4 130", "1 29871 4 130"),
    (b"I believe the meaning of life is", None, "1 306 4658 278 6593 310 2834 338"),
    (
        b"Simply put, the theory of relativity states that ",
        None,
        "1 3439 17632 1925 29892 278 6368 310 14215 537 5922 393 29871",
    ),
    (
        b"A brief message congratulating the team on the launch:\n\n        Hi everyone,\n\n        I just ",
        None,
        "1 319 11473 2643 378 629 271 18099 278 3815 373 278 6826 29901 13 13 4706 6324 14332 "
        "29892 13 13 4706 306 925 29871",
    ),
    (
        b"Translate English to French:\n\n        sea otter => loutre de mer\n        peppermint "
        b"=> menthe poivr\xc3\xa9e\n        plush girafe => girafe peluche\n        cheese =>",
        None,
        "1 4103 9632 4223 304 5176 29901 13 13 4706 7205 4932 357 1149 301 449 276 316 2778 13 "
        "4706 1236 407 837 524 1149 6042 354 772 440 29878 1318 13 4706 715 1878 330 3055 1725 "
        "1149 330 3055 1725 4639 28754 13 4706 923 968 1149",
    ),
    (b"and", "1 269", None),
    (b"aaaa", None, "1 263 7340 29874"),
    (b"   ", None, "1 268"),
    (b"a   b", None, "1 263 259 289"),
    (b"dog", None, "1 11203"),
)

# tok512: (previous id, id, text). Id 1 is BOS, after which one leading space is dropped; 35 is the byte 0x20.
DECODINGS = (
    (5, 3, b""),
    (5, 13, b"\n"),
    (5, 35, b" "),
    (1, 35, b" "),
    (5, 259, b" t"),
    (1, 259, b"t"),
    (5, 410, b" "),
    (1, 410, b""),
    (5, 1, b"\n<s>\n"),
    (5, 2, b"\n</s>\n"),
    (5, 0, b"<unk>"),
    (5, 403, b" Once"),
    (1, 403, b"Once"),
)

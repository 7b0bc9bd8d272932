"""golden/chat/dialogs.json against other people's encoders, by the templates as other programs state them.

Llama 2: every turn is encoded by SentencePiece for itself, BOS and EOS by their ids. Llama 3: transformers renders a
Jinja template and finds the special pieces in the text. Where a message spells a special piece it would find that
too, so there it is asked for the frame and the messages apart.
"""

import pytest

transformers = pytest.importorskip("transformers", reason="an oracle of its own environment: tests/oracles/run.sh")
sentencepiece = pytest.importorskip("sentencepiece", reason="an oracle of its own environment: tests/oracles/run.sh")

from harness import models  # noqa: E402
from harness.tokenizer import sentencepiece_model  # noqa: E402
from tests.tokenizer.test_chat_goldens import CASES, GOLDEN, tokenizer_of  # noqa: E402

# As Llama 3's model card states the format.
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SPELLS = ("<|", "<s>")


def llama2(encode, messages):
    """Spell the turns as Llama 2's published chat does, and encode each."""
    messages = [list(one) for one in messages]
    if messages[0][0] == "system":
        (_, prompt), (_, question), *rest = messages
        messages = [["user", "<<SYS>>\n" + prompt + "\n<</SYS>>\n\n" + question], *rest]
    ids = []
    while len(messages) > 1:
        (_, question), (_, answer), *messages = messages
        ids += [1, *encode("[INST] " + question.strip() + " [/INST] " + answer.strip() + " "), 2]
    return [*ids, 1, *encode("[INST] " + messages[0][1].strip() + " [/INST]")]


@pytest.mark.parametrize(("template", "name"), [case for case in CASES if case[0].startswith("llama2/")])
def test_llama_2_by_sentencepiece(template, name):
    words = tokenizer_of(template)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model.dump(words))
    expected = llama2(theirs.encode, GOLDEN["dialogs"][name]["messages"])
    assert GOLDEN["templates"][template]["ids"][name] == expected


@pytest.mark.parametrize("name", GOLDEN["dialogs"])
def test_llama_3_by_transformers(name):
    theirs = transformers.AutoTokenizer.from_pretrained(models.locate("llama3").checkpoint)
    theirs.chat_template, theirs.bos_token = LLAMA_3, "<|begin_of_text|>"
    messages = [{"role": role, "content": content} for role, content in GOLDEN["dialogs"][name]["messages"]]
    ids = GOLDEN["templates"]["llama3/llama3"]["ids"][name]
    if any(spelling in one["content"] for one in messages for spelling in SPELLS):
        frames = [{**one, "content": "@"} for one in messages]
        expected = []
        at = theirs("@", add_special_tokens=False)["input_ids"]
        contents = iter(messages)
        for id_ in theirs.apply_chat_template(frames, add_generation_prompt=True, return_dict=False):
            if [id_] == at:
                said = next(contents)["content"].strip()
                expected += theirs(said, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            else:
                expected.append(id_)
    else:
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == list(expected)

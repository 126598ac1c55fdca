from pathlib import Path

import pytest
from transformers import AutoTokenizer

from atspeed.prompts import ChatPrompt
from atspeed.prompts.prompt import IGNORED
from tests.prompts.tiny_tokenizers import CATALOG, byte_level, metaspace_bpe, save

MESSAGE = "The user has interacted with {history} . What next?"
ITEM = "<|sid_begin|>{codes}<|sid_end|>"
WORDS = ("<|sid_begin|>", "<|sid_end|>", *CATALOG.words)


@pytest.mark.parametrize("build", [byte_level, metaspace_bpe])
@pytest.mark.parametrize(
    ("codes", "system", "thinking"), [(WORDS, None, False), (WORDS, "Be brief.", True), ((), "", False)]
)
def test_a_chat_has_the_tokens_that_the_template_gives(
    codes: tuple[str, ...], system: str | None, thinking: bool, build: type, tmp_path: Path
) -> None:
    folder = save(tmp_path, build(), bos=True, codes=codes)
    prompt = ChatPrompt(
        *(folder, MESSAGE, system, thinking, ITEM, "\n"),
        response_prefix="<|sid_begin|>",
        response_suffix="<|sid_end|><|im_end|>",
    )
    encoder, reference = prompt.encoder(CATALOG, 3), AutoTokenizer.from_pretrained(folder)
    for history in ([], [0], [0, 3, 1, 2]):
        written = [ITEM.replace("{codes}", "".join(CATALOG.sid(item))) for item in history[-3:]]
        messages = [{"role": "user", "content": MESSAGE.replace("{history}", "\n".join(written))}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        chat = {"add_generation_prompt": True, "enable_thinking": thinking, "return_dict": False}
        prompt_tokens = reference.apply_chat_template(messages, **chat)
        text = reference.apply_chat_template(messages, tokenize=False, **chat)
        answer = f"<|sid_begin|>{''.join(CATALOG.sid(2))}<|sid_end|><|im_end|>"
        tokens, labels = encoder.encode_labelled([*history, 2])
        assert tokens.tolist() == reference(text + answer, add_special_tokens=False).input_ids
        assert tokens[: len(prompt_tokens)].tolist() == prompt_tokens
        assert (labels == IGNORED).tolist() == [position < len(prompt_tokens) for position in range(len(tokens))]
        assert encoder.encode(history).tolist() == [*prompt_tokens, *encoder.spelling.prefix]


def test_tokenizers_and_messages_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, byte_level())
    with pytest.raises(ValueError, match="must say once where the items go, by {history}"):
        ChatPrompt(folder, "What next?").encoder(CATALOG, 3)
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    with pytest.raises(ValueError, match="leaves the prompt's system message out"):
        ChatPrompt(folder, MESSAGE, "Be brief.").encoder(CATALOG, 3)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template; use TextPrompt instead"):
        ChatPrompt(folder, MESSAGE).encoder(CATALOG, 3)

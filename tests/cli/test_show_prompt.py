from collections.abc import Callable
from pathlib import Path

from tests.cli.running import run_here
from tests.prompts.tiny_tokenizers import byte_level, save


def test_prompts_of_target_and_draft_are_printed_with_their_tokens(
    write_layout: Callable[..., Path], tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "data: {max_history: 2, prompt: {class_path: TextPrompt, init_args: {template: x}}}\nmodel: {no: such}"
    )
    codes = ("<a_1>", "<a_2>", "<b_2>", "<b_10>")
    data = ["--data.source", "AtSpeedLayout", "--data.source.root", str(write_layout())]
    tokenizer = save(tmp_path / "tokenizer", byte_level(), bos=True, codes=codes)
    prompt = [
        "--data.prompt.tokenizer",
        str(tokenizer),
        "--data.prompt.template",
        f"{'soap ' * 60}{{history}}\n\nNext:",
    ]
    command = ["show-prompt", "-c", "target.yaml", "-c", str(overlay), *data, *prompt]
    output = run_here(*command, "--data.draft_prompt", "CompactPrompt", "--user", "7")
    # 1 2 3 and 4 are known, 2 is the first test item
    assert "target: TextPrompt, 2 of the user's 4 items (2 oldest left out), " in output
    assert "soap <a_2><b_2>, <a_2><b_2>\n\nNext:\n---" in output
    assert "target: response for item '2', 3 tokens after the prompt\n" in output
    assert "---\n<a_1><b_10></s>\n---" in output
    assert "<s>\u00a01  " in output
    assert "Ċ\u00a0" in output
    assert "draft: CompactPrompt, 2 of the user's 4 items (2 oldest left out), 7 tokens of at most 7\n" in output
    assert "<bos> <a_2> <b_2> <sep> <a_2> <b_2> <sep>" in output
    prefixed = run_here(*command, "--data.prompt.response_prefix", "<a_1>")
    assert "user '7'" in prefixed, "the first one"
    assert "(the prompt's last 1 tokens, '<a_1>', begin every response)" in prefixed
    assert "draft" not in prefixed
    assert "user is '6', whom the data does not have; it has 3, such as '7'" in run_here(
        *command, "--user", "6", code=1
    )

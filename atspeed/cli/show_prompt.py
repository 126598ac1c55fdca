"""The command that prints a user's prompt as the models see it."""

from atspeed.data import RecommendationData
from atspeed.data.prompt_lines import prompt_lines

WIDTH = 120


class PromptDisplay:
    """Prints the prompt of a user for the target, and for the draft where that reads another one.

    The history is what is known before the user's test items, of which the first is the response.

    Args:
        user: name of the user in the data; the first one if not given.
    """

    def __init__(self, user: str | None = None) -> None:
        self.user = user

    def run(self, data: RecommendationData) -> None:
        """Print the prompts.

        Raises:
            ValueError: if the data does not have the user.
        """
        data.setup()
        row = self._row(data)
        print(f"user {data.dataset.users[row]!r}")
        print()
        print("\n".join(prompt_lines("target", data.prompt, data.encoder, data.dataset, row, WIDTH)))
        if data.draft_prompt is not None:
            print()
            print("\n".join(prompt_lines("draft", data.draft_prompt, data.draft_encoder, data.dataset, row, WIDTH)))

    def _row(self, data: RecommendationData) -> int:
        users = data.dataset.users
        if self.user is None:
            return 0
        for row, name in enumerate(users):
            if name == self.user:
                return row
        raise ValueError(
            f"user is {self.user!r}, whom the data does not have; it has {len(users)}, such as {users[0]!r}"
        )

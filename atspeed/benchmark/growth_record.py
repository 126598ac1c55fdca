"""How a model of real size was made."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from atspeed.catalog import Vocabulary
from atspeed.models import Grown, Int8, ModelSource, WeightOnly

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True)
class GrownFrom:
    """How a model was made from a small, trained one (:class:`atspeed.models.Grown`), whose function it computes.

    Attributes:
        base: source of the small model, such as ``Exported(stage='target')``.
        base_parameters: its parameters.
        base_shape: its sizes, by their name in the configuration.
        shape: those that it was grown to.
    """

    base: str
    base_parameters: int
    base_shape: dict[str, int]
    shape: dict[str, int]

    def __str__(self) -> str:
        """Return a clause that a sentence on the model can end with."""
        sizes = ", ".join(
            f"{name} {self.base_shape[name]} → {size}" if size != self.base_shape[name] else f"{name} {size}"
            for name, size in self.shape.items()
        )
        return (
            f"grown from {self.base} of {self.base_parameters / 1e6:.1f} M parameters ({sizes}); the function is that "
            "of the small model"
        )


def grown_from(
    source: ModelSource | None, model: PreTrainedModel | None, vocabulary: Vocabulary, run_dir: Path
) -> GrownFrom | None:
    """Return how a model was made, if its source grew it from a smaller one, which is loaded once more for that.

    Args:
        source: of the model, if there is one.
        model: the model, if it was built.
        vocabulary: of the model.
        run_dir: the run folder.
    """
    if isinstance(source, (Int8, WeightOnly)):
        source = source.base
    if not isinstance(source, Grown) or model is None:
        return None
    base = source.base.build(vocabulary, run_dir)
    settings = ", ".join(f"{name}={value!r}" for name, value in vars(source.base).items())
    base_shape, shape = ({name: getattr(made.config, name) for name in SIZES} for made in (base, model))
    return GrownFrom(f"{type(source.base).__name__}({settings})", base.num_parameters(), base_shape, shape)

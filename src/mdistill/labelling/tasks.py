"""Questions: single structures of a plan as plain data for any process, and frames from their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.data.explore import defects, rattled, short_contacts, strained
from mdistill.data.probes import draw_probes
from mdistill.errors import BadInput, MdistillError
from mdistill.labelling.engine import Answer, Engine, Failure
from mdistill.labelling.plan import Task
from mdistill.labelling.settings import LabelSettings
from mdistill.settings import stream
from mdistill.types import LabelledFrame, Prediction, System


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One structure to label.

    Attributes:
        name, index: Its set, and its number in the set.
        system: One struct.
        probes: Directions of curvature products.
        known: The prediction, where it is known (dynamics run by the engine).
        source, temperature_K, block: As in `LabelledFrame`.
    """

    name: str
    index: int
    system: System
    probes: Float[Tensor, "probe atom 3"] | None = None
    known: Prediction | None = None
    source: str = "md"
    temperature_K: float = 0.0
    block: int = 0


def still_questions(task: Task, system: System, settings: LabelSettings, *, seed: int) -> list[Question]:
    """The single structures of a task without dynamics."""
    generator, sources = stream(seed, task.name), [str(task.kind)] * task.frames
    if task.kind == "strain":
        made = strained(system, isotropic=settings.strains, shears=settings.shears, rattle=0.03, generator=generator)
    elif task.kind == "rattle":
        made = [system, *rattled(system, amplitudes=settings.rattles, generator=generator)]
        sources[0] = "relaxed"
    elif task.kind == "defect":
        kinds = defects(system, count=task.frames, generator=generator)
        sources, made = [kind for kind, _ in kinds], [one for _, one in kinds]
    else:
        made = short_contacts(system, count=settings.contacts, generator=generator)
    return questions(task.name, made, settings, sources=sources, blocks=[task.first_block] * task.frames, seed=seed)


def frame_questions(
    task: Task, number: int, system: System, prediction: Prediction | None, settings: LabelSettings, *, seed: int
) -> list[Question]:
    """Questions of one frame of dynamics: the frame and its displaced copies, which have no temperature."""
    block, generator = task.first_block + number // task.per_block, stream(seed, f"{task.name} displaced {number}")
    copies = rattled(system, amplitudes=(settings.displacement_A,) * settings.displaced, generator=generator)
    frame = Question(name=task.name, index=number, system=system, probes=_probes(task.name, number, system, settings, seed),
                   known=prediction, temperature_K=task.temperature_K, block=block)  # fmt: skip
    name = f"{task.name}-displaced"
    return [frame, *(Question(name=name, index=number, system=copy, source="displaced", block=block) for copy in copies)]


def questions(
    name: str, systems: Sequence[System], settings: LabelSettings, *, sources: Sequence[str], blocks: Sequence[int],
    seed: int, temperature_K: float = 0.0,
) -> list[Question]:  # fmt: skip
    """Structures as questions, every n-th with curvature."""
    return [
        Question(name=name, index=k, system=system, probes=_probes(name, k, system, settings, seed), source=source,
                 temperature_K=temperature_K, block=block)
        for k, (system, source, block) in enumerate(zip(systems, sources, blocks, strict=True))
    ]  # fmt: skip


def _probes(name: str, index: int, system: System, settings: LabelSettings, seed: int) -> Float[Tensor, "probe atom 3"] | None:
    if not settings.probes or index % settings.probe_every:
        return None
    generator = stream(seed, f"{name} probe {index}")
    return draw_probes(system, settings.probes, generator, kind=settings.probe_kind)


def ask(engine: Engine, question: Question, folder: Path) -> Answer | Failure:
    """The engine's answer; its files lie in a folder of the question's name."""
    place = folder / f"{question.name}-{question.index}".replace("/", "-")
    return engine.label(question.system, place, probes=question.probes, known=question.known)


def sent(error: MdistillError) -> dict[str, str]:
    """An error of a worker that is not the structure's, such as a full disk or an unknown element, for `raised`."""
    if isinstance(error, BadInput):
        return {name: getattr(error, name) for name in ("subject", "problem", "allowed", "fix")}
    return {"message": str(error)}


def raised(told: dict[str, str]) -> MdistillError:
    """The error that `sent` told."""
    return MdistillError(told["message"]) if "message" in told else BadInput(**told)


def frame_of(question: Question, answer: Answer | Failure, *, largest_force: float) -> LabelledFrame | Failure:
    """The frame, or the reason for none: no answer, or one that is not finite, of wrong shape or beyond `largest_force`."""
    if isinstance(answer, Failure):
        return answer
    problem = _problem(question, answer, largest_force)
    return problem or LabelledFrame(
        system=question.system, target=answer.prediction, probes=question.probes, products=answer.products,
        source=question.source, temperature_K=question.temperature_K, block=question.block,
    )  # fmt: skip


def _problem(question: Question, answer: Answer, largest_force: float) -> Failure | None:
    prediction, system = answer.prediction, question.system
    shapes = (tuple(prediction.energy.shape), tuple(prediction.forces.shape))
    if shapes != ((1,), (system.n_atoms, 3)):
        return Failure(reason=f"energy and forces have shapes {shapes[0]} and {shapes[1]}")
    parts = [prediction.energy, prediction.forces] + ([] if prediction.stress is None else [prediction.stress])
    if any(part.dtype in (torch.float16, torch.bfloat16) for part in parts):
        return Failure(reason="half-precision answer: too coarse for training")
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        return Failure(reason="energy, forces or stress are not finite")
    largest = float(prediction.forces.square().sum(-1).max().sqrt())
    if largest > largest_force:
        reason = f"largest force {largest:.4g} eV/Å is above the cap of {largest_force:g} eV/Å"
        return Failure(reason=reason, engine_failed=False)
    if answer.products is not None and not bool(torch.isfinite(answer.products).all()):
        return Failure(reason="curvature products are not finite")
    return None

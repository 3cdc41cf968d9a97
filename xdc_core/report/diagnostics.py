"""Diagnostics of a round: sentences with a level, good, look (worth a look), or bad."""

import math
from collections.abc import Iterable, Iterator

from xdc_core.clustering.pca import few_clips_for_whitening
from xdc_core.documents.report import Diagnostic, Level, Report, SharedRow

UNEVEN = 0.05  # Of balanced clusters: the share of the mass that is in the wrong one.
# On talking faces the sound kept half of what its first clusters held where XDC learnt the words, and a fifth or less
# from the third round on where it did not.
KEPT = 1 / 3
CHANCE = 0.05  # AMI of random groupings is 0 but for their noise.
LEAST_SHARED = 0.01  # Nats per clip; less is within the error of measurement.
ORDER: tuple[Level, ...] = ("bad", "look", "good")


def diagnostics(report: Report) -> list[Diagnostic]:
    """Return sentences on a round's clusters, trainings and agreement with labels, the worst first."""
    sentences = [
        *_of_preprocessing(report),
        *_of_clusters(report),
        *_forgets(report),
        *_of_training(report),
        *_of_labels(report),
        *_of_rounds(report),
    ]
    return sorted(sentences, key=lambda diagnostic: ORDER.index(diagnostic[0]))


def _of_preprocessing(report: Report) -> Iterator[Diagnostic]:
    for name, source in report.sources.items():
        done, clips = source.preprocessing, source.sample
        if done.pca_asked:
            yield (
                "look",
                f"{name}: {done.pca_kept} principal components are kept, not {done.pca_asked}: {clips} clips are too "
                "few for more (cluster.clips_per_component).",
            )
        if warning := few_clips_for_whitening(done.pca_kept, clips, done.whitened):
            yield "look", f"{name}: {warning}"
        if done.canonical and done.canonical.above_chance < 2:
            largest, chance = done.canonical.correlations[0], done.canonical.chance
            number = "one axis" if done.canonical.above_chance else "no axis"
            yield (
                "look",
                f"{name}: the modalities share {number} above chance (correlation {largest:.2f}, with permuted clips "
                f"{chance:.2f}), so axes that may be shared by chance are kept.",
            )


def share_within(rows: Iterable[SharedRow]) -> bool:
    """Return whether modalities share anything within recordings. Else what they share over all clips counts."""
    return max(row.within or 0.0 for row in rows) >= LEAST_SHARED


def _forgets(report: Report) -> Iterator[Diagnostic]:
    """Yield a sentence if the better teacher of the first round has forgotten most of what its clusters held then.

    The better teacher is the modality whose clusters share most with the features of another, within recordings where
    something is shared there. It is not a fault if the other forgets its first clusters: it learns better ones.
    """
    since = report.kept_history[-1].since if report.kept_history else report.round
    if since == report.round or report.from_first:
        return
    first = [row for row in report.shared_history if row.round == since]
    within = share_within(first)
    most, teacher = max(((row.within or 0.0) if within else row.shared, row.teacher) for row in first)
    kept = {row.round: row.kept for row in report.kept_history if (row.modality, row.since) == (teacher, since)}
    if most >= LEAST_SHARED and kept[report.round] < KEPT * kept[since]:
        remedy = "" if report.learns else " In methods that learn from each other train.protect prevents this."
        yield (
            "bad",
            f"{teacher} forgets: its features tell {kept[report.round]:.2f} nats per clip of its clusters of "
            f"round {since}, then {kept[since]:.2f}, although these shared most with another modality.{remedy} See "
            "docs/method.md.",
        )


def _of_clusters(report: Report) -> Iterator[Diagnostic]:
    for name, source in report.sources.items():
        if source.empty:
            level: Level = "bad" if source.empty > source.k / 4 else "look"
            yield level, f"{name}: {source.empty} of {source.k} clusters are empty."
        for number, further in enumerate(source.clusterings, start=2):
            if further.empty:
                level = "bad" if further.empty > source.k / 4 else "look"
                yield level, f"{name}, clustering {number}: {further.empty} of {source.k} clusters are empty."
        for balance in (source.balance, *(further.balance for further in source.clusterings)):
            if balance and balance.uneven[-1] > UNEVEN:
                yield (
                    "look",
                    f"{name}: the clusters are not balanced yet, {balance.uneven[-1]:.0%} of the mass would have to "
                    "move. Raise label.iterations or label.temperature.",
                )
        share = source.largest_share
        if share > 0.5:
            yield "bad", f"{name}: one cluster holds {share:.0%} of the clips: the encoder hardly distinguishes clips."
        elif share > 8 / source.k and source.k > 8:
            times = share * source.k
            yield "look", f"{name}: the largest cluster holds {share:.0%} of the clips, {times:.0f} times the average."
        rows = [row for row in report.history if row.source == name and row.nmi_previous is not None]
        values = [row.nmi_previous for row in rows if row.nmi_previous is not None]
        if rows and rows[-1].round == report.round:
            trend = f", {values[-2]:.2f} the round before" if len(values) > 1 else ""
            words = f"{name}: NMI of {values[-1]:.2f} with the clusters of the round before{trend}"
            # With many clusters the NMI of random groupings is far from 0, their AMI is not.
            ami = source.changed.ami if source.changed else None
            if ami is not None and ami <= CHANCE:
                yield "look", f"{words}, which is chance level (AMI {ami:.2f}): the clusters were not found again."
            else:
                yield ("good" if values[-1] > CHANCE else "look"), f"{words}."


def _of_training(report: Report) -> Iterator[Diagnostic]:
    for name, training in report.training.items():
        decrease = training.first_loss - training.loss
        words = f"{name}: training brought the loss from {training.first_loss:.2f} to {training.loss:.2f}"
        if not math.isfinite(training.loss):
            yield "bad", f"{name}: the loss is {training.loss}. Lower train.lr, or clip gradients."
        elif decrease <= 0.02 * training.first_loss:
            yield "look", f"{words}: it hardly decreased."
        else:
            yield "good", f"{words}."


def _of_labels(report: Report) -> Iterator[Diagnostic]:
    column = report.first_label
    if column is None:
        return
    for name in report.sources:
        values = [row.score("ami", column) for row in report.history if row.source == name]
        if not values or values[-1] is None:
            continue
        now, earlier = values[-1], values[-2] if len(values) > 1 else None
        words = f"{name}: AMI of {now:.2f} with {column}"
        if earlier is not None:
            words += f", {earlier:.2f} in the round before"
        if now <= CHANCE:
            yield "look", f"{words}: chance level, the clusters hardly tell anything of this label."
        else:
            yield ("good" if earlier is None or now >= earlier - 0.02 else "look"), f"{words}."


def _of_rounds(report: Report) -> Iterator[Diagnostic]:
    if report.from_first:
        names = ", ".join(report.training)
        yield "good", f"{names}: the training of this round, the last one, started from the first encoders."
    if report.stop is not None:
        yield "good", f"The stopping rule {'holds' if report.stop.stop else 'does not hold yet'}: {report.stop.why}"

"""The estimate in a sentence, and what to do next."""

from distill.estimate.findings import Findings, Verdict

__all__ = ("verdict_of",)


def verdict_of(found: Findings) -> Verdict:
    """Of findings without a verdict."""
    says = _says(found)
    return Verdict(says=says, sentence=_sentence(found, says), next=_next(found, says))


def _says(found: Findings) -> str:
    if not found.inventory.kept:
        return "no text"
    if not found.curve or found.curve[-1].answers < found.answers_needed:
        return "too few"
    if not found.curve[-1].moved:
        return "nothing"
    if found.money is None:
        return "no money"
    first = found.money.accountings[0]
    if not first.pays:
        return "does not pay"
    return "pays" if first.saving_ends[0] > 0 else "may pay"


def _sentence(found: Findings, says: str) -> str:
    inventory = found.inventory
    if says == "no text":
        return f"{inventory.requests:,} requests, but nothing of what was said: only what they cost can be told."
    if says == "too few":
        usable = found.curve[-1].answers if found.curve else 0
        return (
            f"{usable:,} answers to learn from are too few: with fewer than {found.answers_needed:,} no agreement of "
            f"{found.target:.0%} can be proved, however good a student is."
        )
    last = found.curve[-1]
    if says == "nothing":
        return (
            f"With {last.answers:,} answers the proxy may take nothing at an agreement of {found.target:.0%}. That "
            "is no proof that a student could not: the proxy only repeats answers that it has seen."
        )
    low, high = last.ends
    share = (
        f"at least {last.moved:.0%} of the requests ({low:.0%} to {high:.0%}) at an agreement of {found.target:.0%}, "
        f"from {last.answers:,} answers"
    )
    if says == "no money" or found.money is None:
        return f"A student could take {share}, by a proxy. What that saves needs prices and times."
    first = found.money.accountings[0]
    if says == "does not pay":
        return f"A student could take {share}, by a proxy. {first.why_not}"
    back = "" if not found.money.training_cost or first.payback_days is None else (
        f"; training has paid for itself after {first.payback_days:,.1f} days"
    )  # fmt: skip
    ends = f"{first.saving_ends[0]:,.2f} to {first.saving_ends[1]:,.2f}"
    unsure = "" if says == "pays" else " The interval reaches below zero: more answers would tell."
    return f"A student could take {share}, and save {first.saving:,.2f} a month ({ends}){back}. By a proxy.{unsure}"


def _next(found: Findings, says: str) -> list[str]:
    inventory, steps = found.inventory, list[str]()
    if inventory.kept < inventory.requests:
        missing = inventory.requests - inventory.kept
        steps.append(
            f"Keep what is said: {missing:,} requests have no text (LiteLLM: store_prompts_in_spend_logs, Helicone: "
            "--include-body, or the gateway's own ledger)."
        )
    if inventory.cost is None:
        steps.append("Give the teacher's price: --price-input and --price-output, or [teacher.price].")
    if inventory.requests_per_day is None:
        steps.append("Give --requests-per-day: the logs name no times.")
    if found.money is not None and not found.money.student_cost:
        steps.append("Give --student-cost, or [student.price]: the student is counted as free.")
    if says == "too few" and inventory.requests_per_day and inventory.kept:
        usable = found.curve[-1].answers if found.curve else 0
        days = (found.answers_needed - usable) / inventory.requests_per_day
        steps.append(
            f"Log on: at the present pace {found.answers_needed:,} answers are there in {max(days, 0):,.1f} days."
        )
    if says in ("pays", "may pay", "no money", "nothing"):
        steps.append(
            "Put the gateway in front: it changes nothing before a release, and keeps the answers with their "
            "log-probabilities. `stillroom ledger import` takes these logs in."
        )
        steps.append(
            "Train a student: `stillroom distill run`. Its gate measures agreement on held-out requests, before one "
            "request is moved."
        )
    if any(part.form == "open" and part.share > 0.2 for part in found.forms):
        steps.append(
            "Much of the traffic is free text, of which a proxy can show next to nothing: only a student and the "
            "comparators `embedding` or `judge` can tell."
        )
    return steps

"""Asks a server both rounds of each incident, several at once, and scores the replies.

    base = evaluation.score(server, evaluation.load_incidents("test"))
    tuned = evaluation.score(server, evaluation.load_incidents("test"), model="triage", label="with adapter")
    evaluation.table(base, tuned)            table, table per root cause, figure

Seconds are what the client sees, at the concurrency of the score: compare like with like.
Does not cover: generating without a server (`offline`), retries. Used by notebook 06.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from ..chat import dialogue, reasoning, served
from ..chat.reasoning import Parted
from ..common.errors import SettingError
from ..common.progress import Progress
from .incidents import Incident
from .scores import Case, Score, judged, not_compliant
from .windows import served_window, tokens_in

if TYPE_CHECKING:
    import openai

    from ..engines.endpoint import Endpoint


TIMEOUT_SECONDS = 600.0


def score(
    server: Endpoint,
    incidents: Sequence[Incident],
    *,
    model: str | None = None,
    temperature: float = 0.0,
    concurrency: int = 4,
    max_tokens: int | None = None,
    label: str = "",
) -> Score:
    """Play both rounds of each incident with `server`, `concurrency` incidents at a time, and judge them; shows progress.

    `model` is an adapter's name or a served model's, by default the server's own. `max_tokens` is for each reply
    (default: `reply_tokens`). A request that fails counts as not compliant, with the reason. Raises before anything is asked:
    `SettingError` (no incidents, an unknown model, numbers that cannot be), `NotRunning` (the server does not answer).
    """
    if not incidents or concurrency < 1 or temperature < 0 or (max_tokens is not None and max_tokens < 1):
        raise SettingError(
            f"{len(incidents)} incidents, concurrency {concurrency}, temperature {temperature:g}, max_tokens {max_tokens}: not possible.",
            'Give incidents such as incidents.load("test"), and positive numbers.',
        )
    served_as = served.resolve_model_name(server, model)
    limit = max_tokens or tokens_in(served_window(server, served_as))
    options = {"model": served_as, "temperature": temperature, "max_tokens": limit}
    name = label or model or server.model
    with (
        dialogue.client(server, timeout=TIMEOUT_SECONDS, max_retries=0) as connection,
        Progress(f"Scoring {name}", len(incidents), "incidents") as bar,
    ):
        cases = _play(connection, incidents, options, concurrency, bar)
    return Score(name, cases, concurrency, temperature)


def _play(
    connection: openai.OpenAI, incidents: Sequence[Incident], options: dict[str, Any], concurrency: int, bar: Progress
) -> tuple[Case, ...]:
    with ThreadPoolExecutor(concurrency) as pool:
        waiting = {pool.submit(_case, connection, incident, options): number for number, incident in enumerate(incidents)}
        cases: dict[int, Case] = {}
        try:
            for done in as_completed(waiting):
                cases[waiting[done]] = done.result()
                bar.update(len(cases), f"{sum(case.judgement.hit for case in cases.values())} hits")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return tuple(cases[number] for number in range(len(incidents)))


def _case(connection: openai.OpenAI, incident: Incident, options: dict[str, Any]) -> Case:
    """Both rounds of one incident. The history of round two holds the first answer without its reasoning, as `Conversation` does."""
    import openai

    first, second = Parted("", ""), Parted("", "")
    try:
        began = time.monotonic()
        first, _ = _ask(connection, incident.messages("")[:2], options)
        again = time.monotonic()
        second, cut = _ask(connection, incident.messages(first.answer), options)
        ended = time.monotonic()
    except openai.OpenAIError as error:
        return Case(incident, first, second, not_compliant(f"request failed: {error}"[:160]))
    judgement = judged(incident, second, options["max_tokens"] if cut else 0)
    return Case(incident, first, second, judgement, ended - again, ended - began)


def _ask(connection: openai.OpenAI, messages: list[dict[str, str]], options: dict[str, Any]) -> tuple[Parted, bool]:
    """The reply in its parts, and whether max_tokens cut it off."""
    request: Any = {"messages": messages, **options}
    choice = connection.chat.completions.create(**request).choices[0]
    return reasoning.reasoning_and_answer(choice.message), choice.finish_reason == "length"

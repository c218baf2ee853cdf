"""Whether two expressions are the same; what the child processes of `mathematics` run."""

from __future__ import annotations


def equivalent(pair: dict[str, str]) -> dict[str, bool]:
    """Whether `said` and `wanted` are the same expression; runs in a child process, which bounds its time.

    Signals that the library would set for itself are off: they work in a main thread only.
    """
    from math_verify import parse, verify

    wanted = parse(_marked(pair["wanted"]), parsing_timeout=None, raise_on_error=True)
    said = parse(_marked(pair["said"]), parsing_timeout=None)
    same = bool(said) and verify(wanted, said, timeout_seconds=None)
    return {"known": bool(wanted), "read": bool(said), "same": bool(same)}


def _marked(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"

"""A student's visit to the page, in headless Chromium: run by the Python that has Playwright, told what to do on standard input.

Input, one JSON object: url, email, password, browser (path), picture (file to write), questions (one chat, in order).
Output, one JSON object: what was seen. Selectors are those of Open-WebUI 0.12.4.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from playwright.sync_api import Page, WebSocket, sync_playwright

ANSWER_MS = 180_000
WATCH = """() => {
  window.seen = [];
  const look = () => {
    const replies = document.querySelectorAll('.chat-assistant');
    const text = replies.length ? replies[replies.length - 1].innerText : '';
    if (text && window.seen[window.seen.length - 1] !== text) window.seen.push(text);
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
"""Notes every state of the last reply that the page draws. A fast reply may be drawn at once; `pieces` says how it came."""


def main() -> None:
    asked = json.load(sys.stdin)
    seen: dict[str, Any] = {"hosts": [], "pieces": 0, "turns": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=asked["browser"], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 800}, locale="en-US")
        page.on("request", lambda request: seen["hosts"].append(request.url.split("/")[2] if "//" in request.url else request.url[:20]))
        page.on("websocket", lambda socket: listen(socket, seen))
        sign_in(page, asked)
        seen["model"] = page.locator("#model-selector-model-button").first.get_attribute("aria-label")
        page.evaluate(WATCH)
        for number, question in enumerate(asked["questions"], start=1):
            seen["turns"].append(turn(page, question, number))
        page.screenshot(path=asked["picture"])
        seen["toasts"] = page.locator("[data-sonner-toast]").all_inner_texts()
        browser.close()
    seen["hosts"] = sorted(set(seen["hosts"]))
    print(json.dumps(seen))


def sign_in(page: Page, asked: dict[str, Any]) -> None:
    page.goto(asked["url"])
    page.fill("#email", asked["email"])
    page.fill("#password", asked["password"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat-input", timeout=ANSWER_MS)
    news = page.get_by_role("button", name="Okay, Let's Go!")
    try:
        news.click(timeout=5000)  # covers the page of every new account, once
    except Exception:
        assert not news.is_visible()


def turn(page: Page, question: str, number: int) -> dict[str, Any]:
    """Ask, wait until the reply stands still and its buttons are there, and say how it grew."""
    page.evaluate("window.seen = []")
    page.click("#chat-input")
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    reply = page.locator(".chat-assistant").nth(number - 1)
    reply.wait_for(timeout=ANSWER_MS)
    page.wait_for_function(
        "n => document.querySelectorAll('button[aria-label=\"Regenerate\"], .regenerate-response-button').length >= 1"
        " && document.querySelectorAll('.chat-assistant').length >= n && !document.querySelector('button[aria-label=\"Stop\"]')",
        arg=number,
        timeout=ANSWER_MS,
    )
    return {"question": question, "reply": reply.inner_text(), "states": page.evaluate("window.seen")}


def listen(socket: WebSocket, seen: dict[str, Any]) -> None:
    """Count the pieces of text that arrive through Open-WebUI's web socket."""

    def count(frame: str | bytes) -> None:
        text = frame if isinstance(frame, str) else frame.decode(errors="replace")
        seen["pieces"] += text.count("output_text.delta")

    seen["socket"] = socket.url.split("?")[0]
    socket.on("framereceived", count)


if __name__ == "__main__":
    main()

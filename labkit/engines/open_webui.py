"""Open-WebUI as data: its settings, its stages. Measured with 0.12.4, the slim variant.

It is a server like the engines, without a model of its own: `labkit.webui` starts it, because its settings are made from the
engines that run. Not here: accounts, connections, proof (`labkit.webui`).
"""

from __future__ import annotations

from ..common.logs import Stage
from .engine import Engine

ENVIRONMENT = {
    "USE_SLIM_DOCKER": "true",  # without it the slim packages are not enough: it asks for chromadb, and ends
    "OFFLINE_MODE": "true",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "ENABLE_OLLAMA_API": "false",
    "OLLAMA_BASE_URLS": "http://127.0.0.1:9",  # any explicit value: else it looks for an Ollama on ports 11434 and 12434
    "ENABLE_OPENAI_API": "false",  # first start only: else it would ask api.openai.com before labkit has set the connections
    "ENABLE_SIGNUP": "false",
    "ENABLE_API_KEYS": "false",
    "ENABLE_PLUGINS": "false",  # Functions and Tools are Python that any admin can put into the server
    "ENABLE_COMMUNITY_SHARING": "false",
    "ENABLE_TITLE_GENERATION": "false",
    "ENABLE_TAGS_GENERATION": "false",
    "ENABLE_FOLLOW_UP_GENERATION": "false",
    "ENABLE_AUTOCOMPLETE_GENERATION": "false",
    "RAG_EMBEDDING_ENGINE": "openai",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
}
"""What never changes. Title, tags, follow-ups and completion would be four more requests to the engine for each message."""

STAGES = (
    Stage("importing Open-WebUI", "", 4, 4),
    Stage("bringing its database up to date", r"alembic\.runtime\.migration", 4, 4),
    Stage("opening the database", r"building the best AI", 1, 1),
    Stage("starting the page", r"Waiting for application startup", 1, 1),
)

ENGINE = Engine(
    name="open_webui",
    title="Open-WebUI",
    runtime="open_webui",
    module=(),
    port_variable="LABKIT_PORT_WEBUI",
    key_variable="WEBUI_SECRET_KEY",
    stages=STAGES,
    probe="",
    environment=ENVIRONMENT,
)

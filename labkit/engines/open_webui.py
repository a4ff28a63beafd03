"""Open-WebUI as data: its settings, its stages, its failures. Measured with 0.12.4, the slim variant.

It is a server like the engines, without a model of its own: `labkit.webui` starts it, because its settings are made from the
engines that run. Not here: accounts, connections, proof (`labkit.webui`).
"""

from __future__ import annotations

from ..common.logs import Explanation, Stage
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

EXPLANATIONS = (
    Explanation(
        r"Can't locate revision identified by '(\w+)'",
        "The data folder was written by a newer Open-WebUI than this one (its database is at revision {0}).",
        "Use the newer version again, or begin with a new data folder: rename the old one; chats and accounts stay in it.",
    ),
    Explanation(
        r"No space left on device|database or disk is full",
        "The disk of the data folder is full.",
        "df -h shows which; make room (./lab doctor), or move the data home to a larger disk: LABKIT_HOME.",
    ),
    Explanation(
        r"file is not a database|database disk image is malformed",
        "The database webui.db in the data folder is damaged.",
        "Rename the data folder to begin with a new one; copies from before an update are beside it (webui.db.before-*).",
    ),
    Explanation(
        r"table (\w+) already exists|duplicate column name: (\w+)",
        "An earlier start was killed while it was changing the database, and no start can go on from there ({0}{1}).",
        "Rename the data folder to begin with a new one; copies from before an update are in it (webui.db.before-*).",
    ),
    Explanation(
        r"unable to open database file|attempt to write a readonly database|Permission denied: '([^']+)'",
        "The data folder cannot be written ({0}).",
        "It must belong to you: ls -ld on it shows its owner; was it made by another user, or as root?",
    ),
    Explanation(
        r"ModuleNotFoundError: No module named '(chromadb|torch|sentence_transformers)'",
        "The slim variant was started without USE_SLIM_DOCKER=true, so it looks for {0}.",
        "Start it with labkit.webui.serve(), or set that variable at every start.",
    ),
    Explanation(
        r"address already in use",
        "The port was taken while Open-WebUI was starting.",
        "./lab ps and `ss -ltnp` show by whom; choose another port: export LABKIT_PORT_WEBUI=<port>",
    ),
)

ENGINE = Engine(
    name="open_webui",
    title="Open-WebUI",
    runtime="open_webui",
    module=(),
    port_variable="LABKIT_PORT_WEBUI",
    key_variable="WEBUI_SECRET_KEY",
    stages=STAGES,
    explanations=EXPLANATIONS,
    probe="",
    environment=ENVIRONMENT,
)

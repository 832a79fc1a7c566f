"""Nothing leaves the machine: all four tasks answer on the real models and try no connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.data import imagenet_photos, librivox
from smallai_assistant import Assistant, AssistantConfig, Interaction, Item
from smallai_assistant.config import ModelsConfig

# The content of a `sitecustomize.py`, which Python runs at the start of every process that has it on its path. It logs
# every attempt to use the network and lets it fail.
WATCH = """
import os, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if arguments[0].family.name not in ("AF_INET", "AF_INET6"):
            return
        what = f"{event} {arguments[1]!r}"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        what = f"{event} {arguments[0]!r}"
    else:
        return
    with open(os.environ["WATCH_LOG"], "a") as log:
        log.write(what + "\\n")
    raise OSError(101, "Network is unreachable")
sys.addaudithook(hook)
"""

ANSWER = """
import json, sys
from pathlib import Path
from test_offline import answer_all
print(json.dumps(answer_all(*map(Path, sys.argv[1:]))))
"""


def answer_all(data: Path, models: Path, photo: Path, recording: Path) -> dict[str, str]:
    """The answer of each task, by its name. No task is named in the questions: they are routed."""
    config = AssistantConfig(
        data_dir=data,
        models_dir=models,
        device="cpu",
        models=ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none"),
    )
    with Assistant(config) as assistant:
        films = ["Alien", "Aliens", "Heat", "Ronin", "Up", "Coco", "Brazil", "Gattaca"]
        assistant.items.add_items([Item(title.lower(), title, f"A film named {title}.") for title in films])
        assistant.items.add_interactions([Interaction("ann", "alien"), Interaction("bob", "alien")])
        assistant.items.add_interactions([Interaction("bob", "aliens"), Interaction("cem", "heat")])
        session = assistant.session("ann")
        contents = ["Hello, how are you?", photo, recording, "Recommend me a film for tonight."]
        answers = {}
        for content in contents:
            response = session.send(content)
            said = [response.text, *(part.label for part in response.parts if hasattr(part, "label"))]
            said += [part.item.title for part in response.parts if hasattr(part, "item")]
            answers[response.turn.task] = " ".join(said)
        assert not assistant.broken_plugins
    return answers


def python(code: str, *arguments: object, folder: Path, without_network: bool) -> subprocess.CompletedProcess[str]:
    """Runs `code` under watch, without the variables that keep the libraries offline: a user has not set them."""
    (folder / "watch").mkdir(exist_ok=True)
    (folder / "watch/sitecustomize.py").write_text(WATCH)
    here = Path(__file__).parent
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    path = os.pathsep.join(map(str, (folder / "watch", here, here.parent, here.parents[1])))
    env = {**kept, "PYTHONPATH": path, "WATCH_LOG": str(folder / "log")}
    namespace = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])] if without_network else []
    command = [*namespace, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)


def tried(folder: Path) -> str:
    """The attempts to use the network that the watch has logged."""
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def has_namespaces() -> bool:
    """Whether this user may start a process without a network."""
    command = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else []), "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('example.org', 443)",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
        "from huggingface_hub import HfApi; HfApi().model_info('owner/name')",
        "import subprocess, sys; c = 'import socket; socket.create_connection((\"::1\", 9))'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', c]).returncode)",
    ],
)
def test_the_watch_sees_every_attempt(tmp_path: Path, attempt: str) -> None:
    done = python(attempt, folder=tmp_path, without_network=False)
    assert done.returncode != 0
    assert tried(tmp_path).startswith("socket.")


@pytest.mark.slow
def test_four_tasks_answer_and_nothing_is_tried(tmp_path: Path, models_dir: Path) -> None:
    photo, recording = imagenet_photos()[0][0], librivox()[0][0]
    arguments = (tmp_path / "data", models_dir, photo, recording)
    done = python(ANSWER, *arguments, folder=tmp_path, without_network=has_namespaces())
    assert done.returncode == 0, done.stderr
    assert tried(tmp_path) == ""
    answers = json.loads(done.stdout.splitlines()[-1])
    assert set(answers) == {
        "text-generation",
        "image-classification",
        "automatic-speech-recognition",
        "recommendation",
    }
    assert len(answers["text-generation"].split()) > 2
    assert "bull mastiff" in answers["image-classification"].lower()
    heard = librivox()[0][1].lower().split()
    assert len(set(heard) & set(answers["automatic-speech-recognition"].lower().split())) > len(heard) / 2
    assert "Aliens" in answers["recommendation"]
    assert "Alien " not in answers["recommendation"]


def test_an_address_is_refused_without_a_connection(tmp_path: Path) -> None:
    """A file or a model that is given by its address is refused, and no connection is tried."""
    code = """
import sys
from pathlib import Path
from smallai_assistant import AssistantError, AudioPart, ImagePart
from smallai_assistant.models.catalog import Catalog
addresses = ["http://127.0.0.1:9/x", "https://example.org/x.gguf", "file:///etc/passwd"]
catalog = Catalog(Path(sys.argv[1]))
for address in addresses:
    for call in (lambda: ImagePart(path=address), lambda: AudioPart(path=address), lambda: catalog.resolve(address)):
        try:
            call()
        except AssistantError as error:
            print(error.code)
"""
    done = python(code, tmp_path / "models", folder=tmp_path, without_network=False)
    assert done.stdout.split() == ["url_not_allowed", "url_not_allowed", "invalid_input"] * 3, done.stderr
    assert tried(tmp_path) == ""

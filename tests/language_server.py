"""A client of yaml-language-server, the program that completes and checks YAML in VS Code and other editors."""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("yaml-language-server")


class LanguageServer:
    """yaml-language-server with the settings that `lamella schema --vscode` has written for a project."""

    def __init__(self, project: Path, settings: Mapping[str, Any]) -> None:
        assert PROGRAM
        self.project, self.count = project, 0
        schemas = {(project / path).as_uri(): files for path, files in settings["yaml.schemas"].items()}
        self.settings = {"yaml": {"schemas": schemas, "completion": True, "hover": True, "validate": True}}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([PROGRAM, "--stdio"], **pipes)  # type: ignore[call-overload]
        dynamic = {"dynamicRegistration": False}
        capabilities = {
            "workspace": {"configuration": True},
            "textDocument": {
                "completion": {"completionItem": {"snippetSupport": False}},
                "hover": {**dynamic, "contentFormat": ["plaintext"]},
            },
        }
        folder = {"uri": project.as_uri(), "name": "project"}
        self.request(
            "initialize",
            {"processId": None, "rootUri": folder["uri"], "workspaceFolders": [folder], "capabilities": capabilities},
        )
        self.notify("initialized", {})
        self.notify("workspace/didChangeConfiguration", {"settings": self.settings})

    def close(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.communicate()

    def diagnostics(self, path: str, text: str) -> list[tuple[int, int, str]]:
        """Open a file with this text, and return the line, the column and the message of each error in it."""
        document = {"uri": self.uri(path), "languageId": "yaml", "version": self.count, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})
        while True:
            message = self.receive()
            if message.get("method") == "textDocument/publishDiagnostics":
                given = message["params"]
                if given["uri"] == document["uri"]:
                    return [(*self.place(one["range"]["start"]), one["message"]) for one in given["diagnostics"]]

    def completions(self, path: str, line: int, column: int) -> dict[str, str]:
        """Return what is proposed at a place of an open file, with the text that each proposal inserts."""
        answer = self.request("textDocument/completion", self.at(path, line, column))
        items = answer["items"] if isinstance(answer, dict) else answer
        return {item["label"]: item.get("insertText", item["label"]) for item in items}

    def hover(self, path: str, line: int, column: int) -> str:
        """Return the text that is shown for a place of an open file, once the server has read its schema."""
        for _ in range(100):
            if answer := self.request("textDocument/hover", self.at(path, line, column)):
                return str(answer["contents"]["value"])
            time.sleep(0.1)
        return ""

    def uri(self, path: str) -> str:
        return (self.project / path).as_uri()

    def at(self, path: str, line: int, column: int) -> dict[str, Any]:
        return {"textDocument": {"uri": self.uri(path)}, "position": {"line": line, "character": column}}

    @staticmethod
    def place(position: Mapping[str, int]) -> tuple[int, int]:
        return position["line"], position["character"]

    def request(self, method: str, params: object) -> Any:
        self.count += 1
        self.send({"id": self.count, "method": method, "params": params})
        while True:
            message = self.receive()
            if message.get("id") == self.count and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def notify(self, method: str, params: object) -> None:
        self.send({"method": method, "params": params})

    def send(self, message: Mapping[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Return the next message, after answers to the requests of the server."""
        length = 0
        while line := self.process.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        message: dict[str, Any] = json.loads(self.process.stdout.read(length))
        if "id" in message and "method" in message:
            result: object = None
            if message["method"] == "workspace/configuration":
                result = [self.settings.get(item["section"]) for item in message["params"]["items"]]
            self.send({"id": message["id"], "result": result})
        return message

"""What goes over the control socket, held against schema/control.schema.json. Where there is no python3-jsonschema, nothing is checked."""

import collections
import json
import os

try:
    import jsonschema
except ImportError:
    jsonschema = None

SOURCE = os.environ.get("TAPELOOP_SOURCE", os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", ".."))
OFTEN, EVERY = 20, 25  # messages of a kind: all of the first, then one in so many, for the same is asked again and again

with open(os.path.join(SOURCE, "schema", "control.schema.json"), encoding="utf-8") as opened:
    SCHEMA = json.load(opened)
METHODS = {name: part["properties"] for name, part in SCHEMA["$defs"].items() if {"params", "result"} <= set(part.get("properties", {}))}
checked = collections.Counter()
_validators = {}


def _lenient(schema):
    """The same, but that there may be more than is described."""
    if isinstance(schema, dict):
        return {name: _lenient(part) for name, part in schema.items() if not (name == "additionalProperties" and part is False)}
    return [_lenient(part) for part in schema] if isinstance(schema, list) else schema


def _check(path, value, strict):
    checked[path] += 1
    if jsonschema is None or (not strict and checked[path] > OFTEN and checked[path] % EVERY):
        return
    if (path, strict) not in _validators:
        defined = SCHEMA["$defs"] if strict else _lenient(SCHEMA["$defs"])
        _validators[path, strict] = jsonschema.Draft202012Validator({"$ref": "#/$defs/" + path, "$defs": defined})
    _validators[path, strict].validate(value)


def check_request(request, strict=True):
    """One that is meant to be right."""
    _check("request", request, strict)
    _check(request["method"] + "/properties/params", request.get("params", {}), strict)


def check_answer(request, answer, strict=True):
    """An answer to a request; one that was carried out must have been right. Not strict: what nobody has described does not matter."""
    method = request["method"]
    _check("answer", answer, strict)
    if "error" in answer:
        return
    check_request(request, strict)
    for part in ("progress", "result"):
        if part in answer:
            assert part in METHODS[method], f"{method} answers with {part}, which is not described"
            _check(f"{method}/properties/{part}", answer[part], strict)

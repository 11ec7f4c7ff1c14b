"""Holds an OpenAPI document against the specification, and answers against the document.

Standard input: {"document": …, "answers": [{"path", "method", "status", "type", "body"}]}, the path being that of the
document, the body a text. Prints, as JSON, every error, and the operations whose answers were looked at.
"""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

given = json.load(sys.stdin)
document = given["document"]
errors = [f"document: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()]
registry = Registry().with_resource("urn:api", Resource(contents=document, specification=DRAFT202012))
seen = set()


def resolved(node):
    """What a reference within the document leads to."""
    while "$ref" in node:
        place = node["$ref"]
        node = document
        for name in place.removeprefix("#/").split("/"):
            node = node[name]
    return node


def absolute(node):
    """The same schema, its references naming the document."""
    if isinstance(node, dict):
        return {k: f"urn:api{v}" if k == "$ref" else absolute(v) for k, v in node.items()}
    return [absolute(one) for one in node] if isinstance(node, list) else node


for answer in given["answers"]:
    name = f"{answer['method'].upper()} {answer['path']} {answer['status']}"
    operation = document["paths"].get(answer["path"], {}).get(answer["method"])
    if operation is None:
        errors.append(f"{name}: there is no such operation")
        continue
    response = operation["responses"].get(str(answer["status"]))
    if response is None:
        errors.append(f"{name}: there is no such response")
        continue
    seen.add(name)
    media = resolved(response)["content"].get(answer["type"].split(";")[0])
    if media is None:
        errors.append(f"{name}: {answer['type']} is not among its types")
    elif "jsonl" in answer["type"]:
        for line in answer["body"].splitlines():
            json.loads(line)
    elif "json" in answer["type"]:
        validator = Draft202012Validator(absolute(media["schema"]), registry=registry)
        for error in validator.iter_errors(json.loads(answer["body"])):
            errors.append(f"{name}: {error.json_path}: {error.message}")

print(json.dumps({"errors": errors, "seen": sorted(seen)}))

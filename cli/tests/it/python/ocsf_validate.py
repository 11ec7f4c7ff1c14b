"""Holds OCSF events, a line each on standard input, against the published schema of the version that they name.

Prints, as JSON, how many there were of each class, and every error.
"""

import json
import sys

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

schemas = {}
counts = {}
errors = []


def schema_of(event):
    """The JSON schema of an event's class, under the profiles that it names."""
    metadata = event["metadata"]
    key = (metadata["version"], event["class_uid"], tuple(metadata.get("profiles", [])))
    if key not in schemas:
        whole = get_ocsf_schema(version=key[0])
        embedded = OcsfJsonSchemaEmbedded(whole)
        name = embedded.lookup_class_name_from_uid(key[1])
        schemas[key] = (whole, name, Draft202012Validator(embedded.get_class_schema(name, list(key[2]))))
    return schemas[key]


def constraints(whole, kind, value, place):
    """What JSON schema does not say here: at least one of several attributes, in the event and in all its objects."""
    wanted = (kind.get("constraints") or {}).get("at_least_one", [])
    if wanted and not any(name in value for name in wanted):
        errors.append(f"{place}: none of {wanted}")
    for name, inner in value.items():
        attribute = kind["attributes"].get(name, {})
        object_type = attribute.get("object_type")
        if not object_type or object_type == "object":
            continue
        for at, one in enumerate(inner if isinstance(inner, list) else [inner]):
            constraints(whole, whole["objects"][object_type], one, f"{place}.{name}[{at}]")


for line in sys.stdin:
    event = json.loads(line)
    whole, name, validator = schema_of(event)
    counts[name] = counts.get(name, 0) + 1
    for error in validator.iter_errors(event):
        errors.append(f"{name}: {error.json_path}: {error.message}")
    constraints(whole, whole["classes"][name], event, name)
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        errors.append(f"{name}: type_uid {event['type_uid']}")

print(json.dumps({"counts": counts, "errors": errors}))

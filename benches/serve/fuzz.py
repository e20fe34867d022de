"""Bad requests: mutated good ones, and random ones by the server's own OpenAPI document."""

import concurrent.futures
import http.client
import json
import random
import socket
import string

PIECES = ['"', "{", "]", "-1", "1e999", "null", "\\u0000", "é", "9" * 30, "[[", ":", "", "../", "true", "0.5"]
SEEDS = [
    ("POST", "/v1/jobs", '{"seed": 1, "steps": 2, "count": 1, "classes": ["cat-face", 3], "size": [32, 32], "guidance": 1.5}'),
    ("POST", "/v1/jobs", '{"image": {"sha256": "00"}, "strength": 0.5, "spacing": {"karras": {"rho": 7}}, "model": "emoji-32"}'),
    ("POST", "/v1/jobs", '{"known": {"image": {"sha256": "00"}, "mask": {"rectangles": [[1, 2, 3, 4]]}, "degradations": [{"kind": "blur", "sigma": 1}]}}'),
    ("POST", "/v1/jobs", '{"controls": [{"image": {"sha256": "00"}, "net": "a", "range": [0, 0.5]}], "loras": [{"name": "b", "scale": 1}]}'),
    ("POST", "/v1/images/generations", '{"prompt": "cat-face", "n": 1, "size": "32x32", "steps": 2, "output_format": "webp"}'),
    ("POST", "/v1/audio/speech", '{"input": "one", "voice": "theo", "response_format": "pcm", "steps": 2}'),
    ("POST", "/sdapi/v1/txt2img", '{"prompt": "", "steps": 1, "width": 32, "height": 32, "sampler_name": "Euler a", "seed": -1}'),
    ("POST", "/sdapi/v1/img2img", '{"init_images": ["iVBORw0KGgo="], "steps": 1, "width": 32, "height": 32}'),
    ("POST", "/sdapi/v1/png-info", '{"image": "iVBORw0KGgoAAAANSUhEUg=="}'),
    ("POST", "/sdapi/v1/extra-single-image", '{"image": "iVBORw0KGgo=", "upscaler_1": "Lanczos", "upscaling_resize": 2}'),
    ("POST", "/sdapi/v1/options", '{"sd_model_checkpoint": "emoji-32"}'),
    ("GET", "/v1/gallery?limit=5&before=a", ""),
    ("GET", "/v1/files/00.png", ""),
    ("GET", "/v1/jobs/a/events?previews=true", ""),
    ("DELETE", "/v1/jobs/a", ""),
]
KINDS = ["application/json"] * 12 + ["text/plain", "multipart/form-data; boundary=x", "multipart/form-data", "application/x+json", ""]


def mutated(draw, text):
    letters = list(text)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(letters) + 1)
        letters[place:place + draw.randint(0, 2)] = draw.choice(PIECES)
    return "".join(letters)


def anything(draw, depth=0):
    """A random value of JSON."""
    kinds = [lambda: None, lambda: draw.random() < 0.5, lambda: draw.choice([0, 1, -1, 3, 1 << 31, 1 << 53, 1 << 64, -(1 << 63)]),
             lambda: draw.choice([0.5, -0.0, 1e-320, 1e308, 7.25]), lambda: text(draw)]
    if depth < 3:
        kinds += [lambda: [anything(draw, depth + 1) for _ in range(draw.randint(0, 3))],
                  lambda: {text(draw): anything(draw, depth + 1) for _ in range(draw.randint(0, 3))}]
    return draw.choice(kinds)()


def text(draw):
    return draw.choice(["", "a", "cat-face", "emoji-32", "../../etc/passwd", "\u0000", "é" * 40, "ddim", "0" * 64, "f" * 64, "png",
                        "".join(draw.choice(string.printable) for _ in range(draw.randint(1, 30)))])


def like(draw, schema, document, depth=0):
    """A value that nearly fits a schema."""
    if depth > 8 or draw.random() < 0.03:
        return anything(draw)
    if "$ref" in schema:
        return like(draw, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], document, depth + 1)
    for choice in ("oneOf", "anyOf", "allOf"):
        if choice in schema:
            return like(draw, draw.choice(schema[choice]), document, depth + 1)
    if "enum" in schema:
        return draw.choice(schema["enum"])
    kind = schema.get("type")
    kind = draw.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {})
        wanted = [name for name in fields if name in schema.get("required", []) or draw.random() < 2 / (1 + len(fields))]
        made = {name: like(draw, fields[name], document, depth + 1) for name in wanted}
        return made | ({text(draw): anything(draw)} if draw.random() < 0.05 else {})
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
        return [like(draw, schema.get("items", {}), document, depth + 1) for _ in range(draw.randint(least, most))]
    if kind == "integer":
        least = schema.get("minimum", -2)
        return draw.choice([least, least + 1, 2, 3, 32, schema.get("maximum", 1 << 40), least - 1])
    if kind == "number":
        least, most = schema.get("minimum", -1), schema.get("maximum", 10)
        return draw.choice([least, most, draw.uniform(least, most), most + 1])
    if kind == "string":
        return "0" * 64 if "pattern" in schema else text(draw)
    if kind == "boolean":
        return draw.random() < 0.5
    return anything(draw)


def by_document(draw, document):
    """A request of one of the operations of the document."""
    path, methods = draw.choice(list(document["paths"].items()))
    method, operation = draw.choice([(m, o) for m, o in methods.items() if m in ("get", "post", "delete")])
    query = []
    for parameter in operation.get("parameters", []):
        value = str(like(draw, parameter.get("schema", {}), document)).encode("ascii", "replace").decode()
        value = "".join(c if c.isalnum() else f"%{ord(c):02x}" for c in value)
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", value or "x")
        elif parameter["in"] == "query" and draw.random() < 0.5:
            query.append(f"{parameter['name']}={value}")
    content = operation.get("requestBody", {}).get("content", {})
    kind, body = "application/json", b""
    if content:
        kind, described = draw.choice(list(content.items()))
        value = like(draw, described.get("schema", {}), document)
        if kind == "multipart/form-data":
            kind = "multipart/form-data; boundary=x"
            fields = value.items() if isinstance(value, dict) else [("request", value)]
            part = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
            parts = [part.format(name, draw.choice(["", '; filename="a"']), json.dumps(one)) for name, one in fields]
            body = ("".join(parts) + "--x--\r\n").encode()
        elif kind == "application/json":
            body = json.dumps(value).encode()
        else:
            body = draw.randbytes(draw.randint(0, 200))
    return method.upper(), path + ("?" + "&".join(query) if query else ""), body, kind


def by_mutation(draw):
    method, path, body = draw.choice(SEEDS)
    if body:
        return method, path, mutated(draw, body).encode(), draw.choice(KINDS)
    path = mutated(draw, path).encode("ascii", "replace").decode().replace(" ", "%20")
    return method, "/" + path.lstrip("/"), b"", ""


def attack(server, draw, count):
    """Sends `count` bad requests by eight connections, and counts the answers by status."""
    document = json.loads(server.call("GET", "/openapi.json")[1])
    start = draw.randrange(1 << 30)

    def one(number):
        own = random.Random(start + number)
        if own.random() < 0.01:
            # Half a body, and away.
            with socket.create_connection(("127.0.0.1", server.port)) as half:
                half.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{")
            return "half"
        method, path, body, kind = by_document(own, document) if own.random() < 0.5 else by_mutation(own)
        try:
            return server.call(method, path, body, {"Content-Type": kind} if kind else {}, client="bad")[0]
        except (http.client.HTTPException, OSError, ValueError):
            return "not sent"

    codes = {}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for code in pool.map(one, range(count), chunksize=64):
            codes[code] = codes.get(code, 0) + 1
    return codes

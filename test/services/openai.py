#!/usr/bin/env python3
"""A stand-in for OpenAI's embeddings, and Azure's: it checks as they do, and counts every text.

    openai.py [--port 0] [--settings JSON] [--with-parent]

Answers under any base path: POST …/embeddings and GET …/models[/MODEL], also Azure's
/openai/deployments/DEPLOYMENT/embeddings?api-version=… (the deployment's name is the model's). The
embedding is a unit vector that depends on model, dimensions and text only. Tokens are a quarter of
the text's bytes, rounded up: so Arabic has twice as many a character as English.

For output, control URL, rules and settings of all stand-ins see standin.py. Settings:

    api_key             the one that is right ("sk-test")
    models              {name: dimensions}; besides OpenAI's three
    shuffle             the items of an answer in another order than the inputs' (false)
    max_inputs, max_input_tokens, max_request_tokens      2048, 8192, 300000
    requests_per_minute, tokens_per_minute                0: none. Else a bucket that refills
                        steadily; x-ratelimit-* headers tell what is left, and 429 with
                        retry-after-ms when it is empty

What a rule's match knows besides: model; text (a substring of any input); inputs_over, tokens_over (of
the request), input_tokens_over (of one input): more than so many. Actions besides:

    rate_limit       429, with retry_after or retry_after_ms
    quota            429 with insufficient_quota
    revoke           401 as for a wrong key; with skip N and times 0: revoked after N requests
    tei              `status` (413) as text-embeddings-inference says that a batch is too large
    llama            500 as llama.cpp says that an input is too long
    wrong_dimension  the item at `index` (0) has `dimensions` numbers (one too few)
    nan, zero        the item at `index` has a NaN (null in JSON, NaN with "literal": true), or
                     nothing but zeros
    missing          the item at `index` is left out
    duplicate_index  the item at `index` has the index of the one before it (of the next: the first)
    bad_index        the item at `index` has an index that no input has
    array            arrays of numbers though base64 was asked for
    garbage          an answer that is no JSON

More counts: texts (embedded and answered for, also where the answer was then cut), distinct_texts,
max_repeats, texts_seen (in all requests), tokens, by_model; GET /__texts[?over=N]: how often each
text was embedded (more than N times), by the SHA-256 of its UTF-8 in hex.
"""

import base64
import binascii
import collections
import hashlib
import math
import random
import re
import struct
import sys
import threading
import time

# No __pycache__ in the checkout.
sys.dont_write_bytecode = True

from standin import NUMBER, Reply, Service, retry_headers, run

MODELS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
# Those that come in one size.
FIXED = {"text-embedding-ada-002"}
FIELDS = {"model", "input", "encoding_format", "dimensions", "user"}
CREATED = 1705953180

# --- vectors -------------------------------------------------------------------------------------


class Vectors:
    """Unit vectors of one size. A byte of the text's hash picks each block of eight numbers out of
    256, all of the same length: so putting them together is all there is to do, and no two texts
    have the same vector."""

    BLOCK = 8

    def __init__(self, size):
        self.size = size
        full, rest = divmod(size, self.BLOCK)
        self.blocks = full + (rest > 0)
        source = random.Random(f"vectors of {size}")
        norm = math.sqrt(self.BLOCK / size)
        self.table = [block(source, self.BLOCK, norm) for _ in range(256)]
        self.last = [block(source, rest, math.sqrt(rest / size)) for _ in range(256)] if rest else None

    def floats(self, digest):
        table = self.table
        if self.last is None:
            return b"".join([table[byte][0] for byte in digest])
        return b"".join([table[byte][0] for byte in digest[:-1]]) + self.last[digest[-1]][0]

    def text(self, digest):
        table = self.table
        parts = [table[byte][1] for byte in digest]
        if self.last is not None:
            parts[-1] = self.last[digest[-1]][1]
        return ",".join(parts)

    def digest(self, model, text):
        return hashlib.shake_128(model.encode() + b"\0" + as_bytes(text)).digest(self.blocks)


def block(source, size, norm):
    """Numbers of the given length together: as float32, and as JSON has them."""
    numbers = [source.gauss(0, 1) for _ in range(size)]
    scale = norm / math.sqrt(sum(one * one for one in numbers))
    packed = struct.pack(f"<{size}f", *(one * scale for one in numbers))
    return packed, ",".join(shortest(one) for one in struct.unpack(f"<{size}f", packed))


def shortest(number):
    """The fewest digits that give the same float32 again."""
    for digits in range(6, 10):
        text = f"{number:.{digits}g}"
        if struct.pack("<f", float(text)) == struct.pack("<f", number):
            return text
    return repr(number)


def as_bytes(text):
    """Also of an input that is a tuple of tokens; JSON can hold half a pair of surrogates."""
    return (text if isinstance(text, str) else repr(text)).encode("utf-8", "surrogatepass")


def token_count(text):
    return -(-len(as_bytes(text)) // 4)


# --- limits --------------------------------------------------------------------------------------


class Bucket:
    """So many a minute, refilled steadily."""

    def __init__(self):
        self.limit = 0
        self.left = 0.0
        self.at = 0.0

    def refill(self, limit):
        now = time.monotonic()
        if limit != self.limit:
            self.limit, self.left = limit, float(limit)
        else:
            self.left = min(limit, self.left + (now - self.at) * limit / 60)
        self.at = now

    def wait_for(self, amount):
        """Seconds until there is so much."""
        return max(0.0, (min(amount, self.limit) - self.left) * 60 / self.limit)

    def until_full(self):
        return (self.limit - self.left) * 60 / self.limit


def duration(seconds):
    """As in x-ratelimit-reset-…: 6m0s, 1.5s, 20ms."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    rest = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{rest}s" if minutes else f"{rest}s"


# --- the service ---------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, reply):
        super().__init__("refused")
        self.reply = reply


class OpenAI(Service):
    actions = {
        "rate_limit": {"retry_after": (str, int), "retry_after_ms": NUMBER},
        "quota": {},
        "revoke": {},
        "tei": {"status": int},
        "llama": {},
        "wrong_dimension": {"index": int, "dimensions": int},
        "nan": {"index": int, "literal": bool},
        "zero": {"index": int},
        "missing": {"index": int},
        "duplicate_index": {"index": int},
        "bad_index": {"index": int},
        "array": {},
        "garbage": {},
    }
    matches_by = {
        "model": str,
        "text": str,
        "inputs_over": int,
        "tokens_over": int,
        "input_tokens_over": int,
    }
    settings = {
        "api_key": "sk-test",
        "models": {},
        "shuffle": False,
        "max_inputs": 2048,
        "max_input_tokens": 8192,
        "max_request_tokens": 300000,
        "requests_per_minute": 0,
        "tokens_per_minute": 0,
    }

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.vectors = {}
        self.buckets = {"requests": Bucket(), "tokens": Bucket()}
        self.clear()

    def clear(self):
        self.texts = collections.Counter()
        self.by_model = collections.Counter()
        self.texts_seen = self.tokens = self.rate_limited = 0

    def reset_counts(self):
        super().reset_counts()
        with self.lock:
            self.clear()

    def counts_as_json(self):
        with self.lock:
            own = {
                "texts": self.texts.total(),
                "distinct_texts": len(self.texts),
                "max_repeats": max(self.texts.values(), default=0),
                "texts_seen": self.texts_seen,
                "tokens": self.tokens,
                "rate_limited": self.rate_limited,
                "by_model": dict(self.by_model),
            }
        return {**super().counts_as_json(), **own}

    def control_pages(self):
        return {"/__texts": self.texts_page}

    def texts_page(self, arguments):
        over = int(arguments.get("over", 0))
        with self.lock:
            return {digest.hex(): times for digest, times in self.texts.items() if times > over}

    # Requests.

    def understand(self, request):
        azure = re.search(r"/openai/deployments/([^/]+)/embeddings$", request.path)
        request.azure = azure is not None or request.path.startswith("/openai/")
        request.deployment = azure.group(1) if azure else None
        request.inputs, request.tokens, request.model = [], [], None
        if request.path.endswith("/embeddings"):
            request.kind = "embeddings"
        elif request.path.endswith("/models"):
            request.kind = "models"
        elif re.search(r"/models/[^/]+$", request.path):
            request.kind = "model"
        if request.kind != "embeddings" or request.method != "POST":
            return
        request.parse()
        if not isinstance(request.document, dict):
            return
        request.model = request.deployment or request.document.get("model")
        request.inputs = inputs_of(request.document.get("input"))
        # Tokens that come as numbers are counted, and stand for themselves.
        tokens = [token_count(one) if isinstance(one, str) else len(one) for one in request.inputs]
        request.tokens = tokens
        with self.lock:
            self.texts_seen += len(request.inputs)

    def matches(self, match, request):
        return (
            ("model" not in match or match["model"] == request.model)
            and ("text" not in match or any(match["text"] in one for one in texts_of(request)))
            and len(request.inputs) > match.get("inputs_over", -1)
            and sum(request.tokens) > match.get("tokens_over", -1)
            and max(request.tokens, default=0) > match.get("input_tokens_over", -1)
        )

    def error(self, status, message, code=None, kind=None, param=None):
        usual = "server_error" if status >= 500 else "invalid_request_error"
        document = {"message": message, "type": kind or usual, "param": param, "code": code}
        return Reply(status, {"error": document})

    def answer(self, request, rule):
        try:
            self.authorise(request, rule)
            if request.kind == "embeddings" and request.method == "POST":
                return self.embeddings(request, rule)
            if request.kind in ("models", "model") and request.method == "GET":
                return self.models(request)
        except Refused as refused:
            return refused.reply
        return self.error(404, f"Invalid URL ({request.method} {request.path})")

    def refuse(self, *arguments, **options):
        raise Refused(self.error(*arguments, **options))

    def refuse_as_azure(self, status, code, message):
        raise Refused(Reply(status, {"error": {"code": code, "message": message}}))

    def authorise(self, request, rule):
        header = request.headers.get("authorization", "")
        key = header[7:] if header.lower().startswith("bearer ") else request.headers.get("api-key", "")
        revoked = rule is not None and rule.action == "revoke"
        if key == self.settings["api_key"] and not revoked:
            return
        if request.azure:
            self.refuse_as_azure(401, "401", "Access denied: the key or the endpoint is wrong.")
        if not key:
            self.refuse(401, "You didn't provide an API key. Send it as: Authorization: Bearer YOUR_KEY.")
        shown = key if len(key) < 8 else f"{key[:3]}***{key[-4:]}"
        self.refuse(401, f"Incorrect API key provided: {shown}.", "invalid_api_key")

    def dimensions(self, model):
        return MODELS.get(model) or self.settings["models"].get(model)

    def models(self, request):
        known = {**MODELS, **self.settings["models"]}
        if request.kind == "models":
            return Reply(200, {"object": "list", "data": [about_model(name) for name in known]})
        name = request.path.rpartition("/")[2]
        if name not in known:
            self.refuse(404, f"The model '{name}' does not exist", "model_not_found", param="model")
        return Reply(200, about_model(name))

    def embeddings(self, request, rule):
        if rule and (reply := self.refusal_by(rule, request)):
            return reply
        size, encoding = self.check(request)
        limits = self.take_from_buckets(sum(request.tokens))
        if rule and rule.action == "garbage":
            return Reply(200, b'{"object": "list", "data": [')

        if size not in self.vectors:
            self.vectors[size] = Vectors(size)
        if rule and rule.action == "array":
            encoding = "float"
        items = self.items(request, self.vectors[size], encoding, rule)
        self.count(request)
        usage = sum(request.tokens)
        body = '{"object":"list","data":[%s],"model":"%s","usage":{"prompt_tokens":%d,"total_tokens":%d}}'
        body %= (",".join(items), request.model, usage, usage)
        headers = {"openai-model": request.model, "openai-processing-ms": 1, **limits}
        return Reply(200, body.encode(), headers)

    def refusal_by(self, rule, request):
        if rule.action == "rate_limit":
            message = f"Rate limit reached for {request.model}."
            reply = self.error(429, message, "rate_limit_exceeded", "requests")
            reply.headers.update(retry_headers(rule))
            return reply
        if rule.action == "quota":
            message = "You exceeded your current quota, please check your plan and billing details."
            return self.error(429, message, "insufficient_quota", "insufficient_quota")
        if rule.action == "tei":
            status, most = rule.get("status", 413), rule.match.get("inputs_over", 32)
            message = f"batch size {len(request.inputs)} > maximum allowed batch size {most}"
            return Reply(status, {"message": message, "code": status, "type": "Validation"})
        if rule.action == "llama":
            most = rule.match.get("input_tokens_over", 512)
            message = (
                f"input ({max(request.tokens, default=0)} tokens) is too large to process. "
                f"increase the physical batch size (current batch size: {most})"
            )
            return Reply(500, {"error": {"code": 500, "message": message, "type": "server_error"}})
        return None

    def check(self, request):
        """Refuses what the service refuses; returns the size of the vectors, and their encoding."""
        document = request.document
        if request.azure and not request.argument("api-version"):
            self.refuse_as_azure(404, "404", "Resource not found")
        if not isinstance(document, dict):
            self.refuse(400, "We could not parse the JSON body of your request.")
        for name in document:
            if name not in FIELDS:
                self.refuse(400, f"Unknown parameter: '{name}'.", "unknown_parameter", param=name)
        model = request.model
        if not isinstance(model, str) or model == "":
            self.refuse(400, "you must provide a model parameter")
        if self.dimensions(model) is None:
            if request.azure:
                self.refuse_as_azure(404, "DeploymentNotFound", "There is no such deployment.")
            message = f"The model `{model}` does not exist or you do not have access to it."
            self.refuse(404, message, "model_not_found")
        self.check_inputs(document.get("input"), request)
        encoding = document.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            self.refuse(400, f"Invalid value: '{encoding}'.", "invalid_value", param="encoding_format")
        if "user" in document and not isinstance(document["user"], str):
            self.refuse(400, "Invalid type for 'user'.", "invalid_type", param="user")
        return self.check_dimensions(document.get("dimensions"), model), encoding

    def check_inputs(self, given, request):
        inputs, most = request.inputs, self.settings["max_inputs"]
        whole = given if isinstance(given, list) else []
        if len(whole) > most:
            message = f"Invalid 'input': at most {most} items are allowed, but there are {len(whole)}."
            self.refuse(400, message, "array_above_max_length", param="input")
        if not inputs or any(len(one) == 0 for one in inputs):
            self.refuse(400, "'$.input' is invalid.")
        for index, tokens in enumerate(request.tokens):
            if tokens > (most := self.settings["max_input_tokens"]):
                message = f"Invalid 'input[{index}]': maximum input length is {most} tokens."
                self.refuse(400, message, param="input")
        if (tokens := sum(request.tokens)) > (most := self.settings["max_request_tokens"]):
            name = "max_tokens_per_request"
            self.refuse(400, f"Requested {tokens} tokens, max {most} tokens per request", name, name)

    def check_dimensions(self, given, model):
        own = self.dimensions(model)
        if given is None:
            return own
        if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= own:
            message = f"Invalid value for 'dimensions': 1 to {own} are possible."
            self.refuse(400, message, param="dimensions")
        if model in FIXED:
            message = "This model does not support specifying dimensions."
            self.refuse(400, message, param="dimensions")
        return given

    def take_from_buckets(self, tokens):
        """The headers that tell what is left; refuses when that is not enough."""
        wanted = {"requests": 1, "tokens": tokens}
        headers = {}
        with self.lock:
            wait, short = 0.0, None
            limited = [name for name in wanted if self.settings[f"{name}_per_minute"]]
            for name in limited:
                bucket = self.buckets[name]
                bucket.refill(self.settings[f"{name}_per_minute"])
                if bucket.wait_for(wanted[name]) > wait:
                    wait, short = bucket.wait_for(wanted[name]), name
            for name in limited:
                bucket = self.buckets[name]
                if not short:
                    bucket.left -= wanted[name]
                headers[f"x-ratelimit-limit-{name}"] = bucket.limit
                headers[f"x-ratelimit-remaining-{name}"] = max(0, int(bucket.left))
                headers[f"x-ratelimit-reset-{name}"] = duration(bucket.until_full())
            if short:
                self.rate_limited += 1
        if short:
            message = f"Rate limit reached on {short} per minute. Please try again in {duration(wait)}."
            reply = self.error(429, message, "rate_limit_exceeded", short)
            headers["retry-after-ms"] = math.ceil(wait * 1000)
            headers["retry-after"] = max(1, math.ceil(wait))
            reply.headers.update(headers)
            raise Refused(reply)
        return headers

    def items(self, request, vectors, encoding, rule):
        at = rule.get("index", 0) if rule else None
        base64_asked = encoding == "base64"
        items = []
        for index, text in enumerate(request.inputs):
            digest = vectors.digest(request.model, text)
            if index == at and rule.action in ("wrong_dimension", "nan", "zero"):
                value = spoilt(vectors, digest, base64_asked, rule)
            elif base64_asked:
                value = '"%s"' % binascii.b2a_base64(vectors.floats(digest), newline=False).decode()
            else:
                value = f"[{vectors.text(digest)}]"
            number = index
            if index == at and rule.action == "missing":
                continue
            if index == at and rule.action == "duplicate_index":
                number = index - 1 if index else 1
            if index == at and rule.action == "bad_index":
                number = len(request.inputs)
            items.append('{"object":"embedding","index":%d,"embedding":%s}' % (number, value))
        if self.settings["shuffle"]:
            random.Random(len(items)).shuffle(items)
        return items

    def count(self, request):
        digests = [hashlib.sha256(as_bytes(one)).digest() for one in request.inputs]
        with self.lock:
            self.texts.update(digests)
            self.by_model[request.model] += len(digests)
            self.tokens += sum(request.tokens)


def texts_of(request):
    return [one for one in request.inputs if isinstance(one, str)]


def inputs_of(given):
    """The single inputs, whichever of the four forms they come in; none where it is no form."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        return []
    if all(isinstance(one, str) for one in given):
        return given
    if all(isinstance(one, int) for one in given):
        return [tuple(given)]
    if all(isinstance(one, list) and all(isinstance(token, int) for token in one) for one in given):
        return [tuple(one) for one in given]
    return []


def spoilt(vectors, digest, base64_asked, rule):
    numbers = list(struct.unpack(f"<{vectors.size}f", vectors.floats(digest)))
    if rule.action == "zero":
        numbers = [0.0] * len(numbers)
    elif rule.action == "nan":
        numbers[len(numbers) // 2] = math.nan
    else:
        wanted = rule.get("dimensions", len(numbers) - 1)
        numbers = (numbers * (wanted // len(numbers) + 1))[:wanted]
    if base64_asked:
        return '"%s"' % base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    nan = "NaN" if rule.get("literal") else "null"
    return "[%s]" % ",".join(nan if math.isnan(one) else repr(one) for one in numbers)


def about_model(name):
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}


if __name__ == "__main__":
    run(OpenAI(), "A stand-in for OpenAI's embeddings; see its head.")

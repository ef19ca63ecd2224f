#!/usr/bin/env python3
"""Creates a bucket: make_bucket.py DIR NAME, with the server and the keys of DIR/env.

A signed PUT (AWS Signature Version 4) in forty lines, for scripts that have no S3 client at hand.
"""
import datetime
import hashlib
import hmac
import sys
import urllib.request


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def main():
    folder, bucket = sys.argv[1:]
    with open(folder + "/env", encoding="utf-8") as lines:
        env = dict(line.rstrip("\n").split("=", 1) for line in lines)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    day = now[:8]
    host = env["endpoint"].split("//", 1)[1]
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": now}
    names = ";".join(headers)
    canonical = "\n".join(
        ["PUT", "/" + bucket, ""] + [f"{k}:{v}" for k, v in headers.items()] + ["", names, empty])
    scope = f"{day}/{env['region']}/s3/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + env["secret_key"]).encode()
    for part in (day, env["region"], "s3", "aws4_request"):
        key = sign(key, part)
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={env['access_key']}/{scope}, SignedHeaders={names}, "
        f"Signature={sign(key, text).hex()}")
    request = urllib.request.Request(
        f"{env['endpoint']}/{bucket}", method="PUT", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        if answer.status != 200:
            sys.exit(f"the server answered {answer.status}")


main()

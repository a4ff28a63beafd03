"""What is personal goes, what a log needs stays. All numbers are made up; cards and identity numbers have valid check digits."""

from __future__ import annotations

import pytest

from labkit.gateway.masking import mask

GOES = {
    "write to li.wei+ops@mail.example.com.cn, please": "write to <email>, please",
    "邮箱zhang_san@example.com。": "邮箱<email>。",
    "邮箱ｚｈａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ": "邮箱<email>",
    "call 13812345678": "call <mobile>",
    "手机13812345678，请回电": "手机<mobile>，请回电",
    "手机：１３８１２３４５６７８": "手机：<mobile>",
    "138-1234-5678 or 138 1234 5678": "<mobile> or <mobile>",
    "+86 138 1234 5678, (+86)13812345678, 008613812345678": "<mobile>, <mobile>, <mobile>",
    "id,42,13812345678,ok": "id,42,<mobile>,ok",
    '{"phone":"13812345678"}': '{"phone":"<mobile>"}',
    "dial +1 415 555 2671 or +442071838750": "dial <phone> or <phone>",
    "+852 9123 4567": "<phone>",
    "办公室 010-12345678，(0755)12345678": "办公室 <phone>，<phone>",
    "(415) 555-2671, 415-555-2671": "<phone>, <phone>",
    "身份证11010519491231002X": "身份证<id>",
    "身份证 440524188001010013 无效, 110101199003077758": "身份证 440524188001010013 无效, <id>",
    "110101 19900307 7758": "<id>",
    "card 4111 1111 1111 1111 exp 12/30": "card <card> exp 12/30",
    "4111-1111-1111-1111": "<card>",
    "卡号6222021234567890128": "卡号<card>",
    "3782 822463 10005": "<card>",
    "from 10.0.3.17:443 to 192.168.1.20.": "from <ip>:443 to <ip>.",
    "http://10.0.3.17/health and 10.0.0.0/8": "http://<ip>/health and <ip>/8",
    "ip.addr==10.0.3.17": "ip.addr==<ip>",
    "peer [2001:db8::7]:8443 lost": "peer [<ip>]:8443 lost",
    "2001:db8:0:1:2:3:4:5: timeout, fe80::1%eth0, ::ffff:10.0.0.9": "<ip>: timeout, <ip>%eth0, <ip>",
    "Authorization: Bearer abcdefgh12345678": "Authorization: Bearer <secret>",
    "Authorization: Basic dXNlcjpwYXNz": "Authorization: Basic <secret>",
    '{"Authorization": "Bearer 550e8400-e29b-41d4-a716-446655440000"}': '{"Authorization": "Bearer <secret>"}',
    "key sk-Zk3_abcdefghijklmnop used": "key <secret> used",
    "hf_abcdefghijklmnopqrst AKIAIOSFODNN7EXAMPLE ghp_abcdefghijklmnopqrstuvwx": "<secret> <secret> <secret>",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_DEF-1": "<secret>",
    "password=hunter2&user=li": "password=<secret>&user=li",
    'PASSWORD: "123456", api_key: abcd1234': 'PASSWORD: "<secret>", api_key: <secret>',
    '"{\\"db_password\\": \\"hunter2\\"}"': '"{\\"db_password\\": \\"<secret>\\"}"',
    "密码是Abc123，请登录": "密码是<secret>，请登录",
    "token=550e8400-e29b-41d4-a716-446655440000": "token=<secret>",
    "postgres://admin:s3cr3t@db:5432/x": "postgres://<secret>@db:5432/x",
    "redis://:s3cr3t@cache": "redis://<secret>@cache",
    "a -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- b": "a <secret> b",
}


@pytest.mark.parametrize("text", GOES)
def test_what_is_personal_goes(text: str) -> None:
    assert mask(text) == GOES[text]


STAYS = [
    "2026-11-21T08:00:00.123456+08:00 ERROR pod checkout-7d9f 3 restarts in 12:29:38.433688",
    "2026-11-21 08:00:00,123 [core.py:1750] took 13.5 ms at 20261121080000",
    "ts=1795264178000 ts_us=1795264178123456 ts_ns=1795264178123456789 epoch 1795264178.433688",
    "vllm 0.32.0, torch==2.13.0+cpu, driver 580.159.04, CUDA 13.0, python 3.11.7",
    "nvidia-cublas==12.8.4.1 version 12.8.4.1 v1.2.3.4 版本12.8.4.1 nccl-2.27.3.1-py3 Chrome/120.0.0.0 Safari/537.36",
    "trace 550e8400-e29b-41d4-a716-446655440000 span 00f067aa0ba902b7",
    "traceparent 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "commit 4111111111111111aaaabbbbccccddddeeeeffff at 0x13812345678",
    "max_tokens: 512, token=128, prompt_tokens=13, tokens/s 4111.5, token: null, password: missing",
    "loss 0.13812345678 then 0.4111111111111111, ratio 3.13812345678",
    "order 4111111111111112 and 1234567890123456 and 18-digit 123456789012345678",
    "11 digits 12812345678, 12 digits 138123456789, 10 digits 1381234567",
    "std::vector<int> a::b dead::beef mac aa:bb:cc:dd:ee:01 ratio 1:2:3 ::",
    "300.1.2.3 and 1.2.3 and 1.2.3.4.5 and port 8000-8999",
    "bearer authentication failed; the password reset page; secret santa; node@rack @everyone",
    "diff +20261121 -20261120, offset +0800, x+12345678901, 1e+10000000",
    "显存 24 GB，KV cache 1,048,576 个 token，错误码 1381234",
]


@pytest.mark.parametrize("text", STAYS)
def test_what_a_log_needs_stays(text: str) -> None:
    assert mask(text) == text


def test_masking_twice_changes_nothing_more() -> None:
    for text in [*GOES.values(), *map(mask, GOES)]:
        assert mask(text) == text


def test_a_date_that_is_none_and_a_region_that_is_none_are_no_identity_number() -> None:
    for number in ("110101199013077758", "990101199003077758", "110101209903077758"):
        assert mask(number) == number


@pytest.mark.parametrize("piece", ["a", "1.", "1:", "a-", "1 2", "://", "\n", "password=\n"])
def test_a_long_text_without_anything_personal_comes_through(piece: str) -> None:
    assert mask(piece * 30_000) == piece * 30_000

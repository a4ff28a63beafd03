"""Login lines as consoles, chat windows, documents and terminals give them: the exact login, or the kind of refusal."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from labkit.common.errors import SettingError
from labkit.machine.login_parts import is_address
from labkit.machine.logins import LONGEST, Login, read_login

AUTODL = Login("connect.nmb2.seetacloud.com", "root", 46457)
LINE = "ssh -p 46457 root@connect.nmb2.seetacloud.com"
PLACE = "root@connect.nmb2.seetacloud.com"
SECRET = "aB3/xyz=="
SAME = [
    # options in any order, as ssh takes them
    LINE,
    f"ssh {PLACE} -p 46457",
    f"ssh -p46457 {PLACE}",
    "ssh -l root -p 46457 connect.nmb2.seetacloud.com",
    "ssh connect.nmb2.seetacloud.com -l root -p 46457",
    "ssh -o Port=46457 -oUser=root connect.nmb2.seetacloud.com",
    "ssh -o User=root -o HostName=connect.nmb2.seetacloud.com -p 46457 gpu",
    f"ssh -p 46457 -- {PLACE}",
    f"ssh -CNg -L 6006:127.0.0.1:6006 {PLACE} -p 46457",
    f"sudo ssh -CNgp 46457 {PLACE}",
    f"ssh -A -X -v -t -p 46457 {PLACE}",
    f"ssh -p 46457 {PLACE} -L 8080:localhost:8080",
    f"ssh -p \"46457\" '{PLACE}'",
    f"ssh -p 46457 ssh://{PLACE}",
    # characters
    "ｓｓｈ　－ｐ　４６４５７　ｒｏｏｔ＠ｃｏｎｎｅｃｔ．ｎｍｂ２．ｓｅｅｔａｃｌｏｕｄ．ｃｏｍ",
    f"ssh \u2013p 46457 {PLACE}",
    f"Ssh \u2014p 46457 {PLACE}。",
    f"ssh \u2212p 46457 {PLACE}\uff0c",
    f"  $ ssh  -p\u00a046457\u3000{PLACE}  ",
    "ssh -p 46457 root@connect\u200b.nmb2.seeta\u00adcloud.com\ufeff",
    f"\u202assh -p 46457 {PLACE}\u202c",
    "ssh -p 46457 root@connect。nmb2。seetacloud。com",
    "ssh -p 46457 root\uff20connect.nmb2.seetacloud.com",
    "ssh -p 46457 root @connect.nmb2.seetacloud.com",
    f"\x1b[200~\x1b[32mssh\x1b[0m -p 46457 {PLACE}\x1b[201~",
    f"ssh&nbsp;-p&nbsp;46457&nbsp;root&#64;{AUTODL.host}",
    f"\u201c{LINE}\u201d",
    f"\u2018{LINE}\u2019",
    f"「{LINE}」",
    f"【{LINE}】",
    f'"{LINE}"',
    f"'{LINE}'",
    f"`{LINE}`",
    f"\u2460{LINE}",
    f"\U0001f449{LINE}\U0001f44d",
    f"ssh - p 46457 {PLACE}",
    f"root @ {AUTODL.host} : 46457",
    f"({LINE})",
    f"ssh%20-p%2046457%20root%40{AUTODL.host}",
    # what stands in front
    f"登录指令：{LINE}",
    f"登录指令 {LINE}",
    f"SSH指令:{LINE}",
    f"SSH command: {LINE}",
    f"Use SSH: {LINE} to log in.",
    f"Login: {PLACE} -p 46457",
    f"Login: {PLACE}:46457",
    f"PS C:\\Users\\me> {LINE}",
    f"C:\\Users\\me>{LINE}",
    f'PS C:\\Users\\me> & "C:\\Windows\\System32\\OpenSSH\\ssh.exe" -p 46457 {PLACE}',
    f"C:\\Windows\\System32\\OpenSSH\\ssh.exe -p 46457 {PLACE}",
    f"/usr/bin/ssh -p 46457 {PLACE}",
    f"ssh.exe -p 46457 {PLACE}",
    f"(base) me@mac ~ % {LINE}",
    f"root@autodl-container-8a2c11a752:~# {LINE}",
    f"\u279c  ~ {LINE}",
    f"sshpass -p '{SECRET}' {LINE}",
    f"1. {LINE}\n2. {SECRET}",
    f"> {LINE}",
    f"\u2022 {LINE}",
    f"[10:22] 张三: {LINE}",
    f"@李四 登录用这个 {LINE} 密码 {SECRET} 别外传",
    # what stands behind
    f"{LINE} 密码：{SECRET}",
    f"{LINE}，密码是{SECRET}",
    f"{LINE}密码{SECRET}",
    f"{LINE} (password: {SECRET})",
    f"{LINE} password {SECRET}",
    f"{LINE} {SECRET}",
    f"{LINE} # my gpu",
    f"{LINE};",
    f"{LINE} &",
    f"{LINE} （北京A区）",
    f"{LINE}\n密码 {SECRET}",
    f"密码: ssh3cret!\n{LINE}",
    f"{LINE}\n{SECRET}",
    f"SSH登录\n登录指令\n{LINE}\n密码\n{SECRET}",
    f"{LINE}\n{PLACE}'s password:\nWelcome to Ubuntu 22.04.4 LTS",
    f"JupyterLab: https://a123.westb.seetacloud.com:8443/jupyter/lab?token=abc\n{LINE}",
    f"ssh {PLACE} 46457",
    f"ssh {PLACE}:46457",
    f"ssh {PLACE} (port 46457)",
    f"{PLACE} port 46457",
    f"ssh {PLACE} 端口46457",
    # several lines
    f"{LINE}\n{LINE}",
    f"ssh -p 46457 \\\n  {PLACE}",
    f"ssh -p 46457 `\n  {PLACE}",
    f"ssh -p 46457 ^\r\n  {PLACE}",
    f"ssh -p 46457\n{PLACE}",
    "ssh -p 46457 root@connect.nmb2.\nseetacloud.com",
    "ssh -p 46457 root@connect.nmb2.seeta\ncloud.com",
    # marks
    f"```bash\n{LINE}\n```",
    f"```{LINE}```",
    f"To log in, use `{LINE}` and the password above.",
    f"**{LINE}**",
    f"<code>{LINE}</code>",
    f"<p>登录：<b>{LINE}</b><br>密码：{SECRET}</p>",
    f"ssh -p 46457 [{PLACE}](mailto:{PLACE})",
    f"ssh -p 46457 root@[{AUTODL.host}](http://{AUTODL.host})",
    f"ssh -p 46457 <mailto:{PLACE}|{PLACE}>",
    f"ssh -p 46457 <{PLACE}>",
    f"| 实例 | 登录指令 | 密码 |\n|---|---|---|\n| gpu-1 | `{LINE}` | {SECRET} |",
    # other forms
    f"{PLACE} -p 46457",
    f"-p 46457 {PLACE}",
    f"sh -p 46457 {PLACE}",
    f"ssh-p 46457 {PLACE}",
    "ssh -p 46457 root%40connect.nmb2.seetacloud.com",
    f"ssh://{PLACE}:46457",
    f"ssh://root:{'pw'}@{AUTODL.host}:46457/root/autodl-tmp",
    f"sftp://root:aB3xyz;fingerprint=ssh-ed25519-abc@{AUTODL.host}:46457/",
    f"ssh -p 46457 root:aB3xyz@{AUTODL.host}",
    f"vscode://vscode-remote/ssh-remote+{PLACE}:46457/root",
    f"vscode-remote://ssh-remote%2Broot%40{AUTODL.host}%3A46457/root",
    f'{{"ssh_command": "{LINE}", "root_password": "{SECRET}"}}',
    f'{{"root_password": "{SECRET}", "proxy_host": "{AUTODL.host}", "ssh_port": 46457, "user": "root"}}',
    f'{{"login": "{LINE}\\n密码 {SECRET}"}}',
    f'{{"login": "ssh -p 46457 root\\u0040{AUTODL.host}"}}',
    f"ip={AUTODL.host};port=46457;user=root;pwd={SECRET}",
    f"{{'host': '{AUTODL.host}', 'port': 46457, 'username': 'root'}}",
    f"host: {AUTODL.host}\nport: 46457\nuser: root",
    f"export SSH_HOST={AUTODL.host}\nexport SSH_PORT=46457\nexport SSH_USER=root",
    f"host={AUTODL.host} port=46457 user=root",
    f"Host autodl\n    HostName {AUTODL.host}\n    User root\n    Port 46457",
    f"Host autodl HostName {AUTODL.host} User root Port 46457",
    f"Host *\n  ForwardAgent yes\n\nHost autodl\n  HostName={AUTODL.host}\n  User root # me\n  Port 46457",
    f"主机：{AUTODL.host}\n端口：46457\n用户名：root\n密码：{SECRET}",
    f"主机 {AUTODL.host} 端口 46457 用户名 root 密码 {SECRET}",
    f"地址：{PLACE}:46457\n密码：{SECRET}",
    f"SSH地址: {AUTODL.host}:46457 用户名: root 密码: {SECRET}",
    f"Host name: {AUTODL.host}\nPort number: 46457\nUser name: root\nPassword: {SECRET}",
    f"| host | port | user |\n|------|------|------|\n| {AUTODL.host} | 46457 | root |",
    f"| Host | {AUTODL.host} |\n| Port | 46457 |\n| User | root |",
    f"HOST                         PORT   USER\n{AUTODL.host}  46457  root",
    f"主机\t端口\t用户名\t密码\n{AUTODL.host}\t46457\troot\t{SECRET}",
    f"{AUTODL.host} 46457 root {SECRET}",
    f"{AUTODL.host}:46457 root/{SECRET}",
]
OTHERS = [
    # consoles of other platforms
    ("Direct ssh connect: ssh -p 20544 root@142.214.185.187 -L 8080:localhost:8080", Login("142.214.185.187", "root", 20544)),
    (
        "SSH over exposed TCP: (Supports SCP & SFTP)\nssh root@213.173.98.10 -p 17445 -i ~/.ssh/id_ed25519",
        Login("213.173.98.10", "root", 17445, ("-i", "~/.ssh/id_ed25519")),
    ),
    (
        "SSH: (No support for SCP & SFTP)\nssh abc123-64411a2b@ssh.runpod.io -i ~/.ssh/id_ed25519",
        Login("ssh.runpod.io", "abc123-64411a2b", 0, ("-i", "~/.ssh/id_ed25519")),
    ),
    ("SSH LOGIN\nssh -i lambda.pem ubuntu@104.171.200.62", Login("104.171.200.62", "ubuntu", 0, ("-i", "lambda.pem"))),
    ("ssh paperspace@184.105.1.2", Login("184.105.1.2", "paperspace")),
    ('{"id": 1, "ssh_host": "ssh4.vast.ai", "ssh_port": 20544, "image": "pytorch/pytorch"}', Login("ssh4.vast.ai", "", 20544)),
    ("实例ID: i-bp1abc\n公网IP：47.98.1.2\n内网IP：172.16.0.3\n用户名：root", Login("47.98.1.2", "root")),
    ("主机IP: 119.29.1.2\nSSH端口: 22\n账号: ubuntu\n密码: P@ss w0rd!", Login("119.29.1.2", "ubuntu", 22)),
    ("ssh ubuntu@119.29.1.2（腾讯云）", Login("119.29.1.2", "ubuntu")),
    # addresses and aliases
    ("ssh -p 22 root@2001:db8::1", Login("2001:db8::1", "root", 22)),
    ("ssh root@[2001:db8::1] -p 7022", Login("2001:db8::1", "root", 7022)),
    ("ssh://root@[2001:DB8::1]:7022", Login("2001:db8::1", "root", 7022)),
    ("ssh ubuntu@[2001:db8::1]:2222", Login("2001:db8::1", "ubuntu", 2222)),
    ("ssh root@fe80::1%eth0", Login("fe80::1%eth0", "root")),
    ("ssh root@10.0.0.7", Login("10.0.0.7", "root")),
    ("10.0.0.7", Login("10.0.0.7")),
    ("ssh my-box", Login("my-box")),
    ("my-box\n", Login("my-box")),
    ("autodl", Login("autodl")),
    ("ssh -p 7 autodl", Login("autodl", "", 7)),
    ("connect.nmb2.seetacloud.com:46457", Login(AUTODL.host, "", 46457)),
    ("ssh me@root@10.0.0.7@jump.example -p 2222", Login("jump.example", "me@root@10.0.0.7", 2222)),
    ("ssh me#root@jump.example", Login("jump.example", "me#root")),
    ("ssh me%40corp.example@box", Login("box", "me@corp.example")),
    # options that stay
    (
        "ssh -i '~/my keys/id' -J hop@gate:22 -p 7 me@box -o StrictHostKeyChecking=accept-new",
        Login("box", "me", 7, ("-i", "~/my keys/id", "-J", "hop@gate:22", "-o", "StrictHostKeyChecking=accept-new")),
    ),
    (
        'ssh -o "StrictHostKeyChecking no" -o UserKnownHostsFile=/dev/null -oServerAliveInterval=60 root@box',
        Login(
            "box",
            "root",
            0,
            ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ServerAliveInterval=60"),
        ),
    ),
    ("ssh -4 -c aes128-ctr root@box", Login("box", "root", 0, ("-o", "AddressFamily=inet", "-o", "Ciphers=aes128-ctr"))),
    ("ssh -oHostKeyAlgorithms=+ssh-rsa root@box", Login("box", "root", 0, ("-o", "HostKeyAlgorithms=+ssh-rsa"))),
    ("ssh -o ProxyJump=me@[2001:db8::1]:7,b root@box", Login("box", "root", 0, ("-J", "me@[2001:db8::1]:7,b"))),
    ("ssh -o PreferredAuthentications=password -p 7 root@box", Login("box", "root", 7, ("-o", "PreferredAuthentications=password"))),
    # keys of Windows
    *(
        (f"ssh -i {written} -p 7 root@box", Login("box", "root", 7, ("-i", path)))
        for written, path in [
            (r"C:\Users\me\.ssh\id_ed25519", r"C:\Users\me\.ssh\id_ed25519"),
            (r"'C:\Users\me\.ssh\id_ed25519'", r"C:\Users\me\.ssh\id_ed25519"),
            (r'"C:\Users\me\my keys\lab.pem"', r"C:\Users\me\my keys\lab.pem"),
            (r'"C:\\Users\\me\\lab.pem"', r"C:\Users\me\lab.pem"),
            (r"C:\\Users\\me\\lab.pem", r"C:\Users\me\lab.pem"),
            (r"C:\Users\张三\.ssh\id_rsa", r"C:\Users\张三\.ssh\id_rsa"),
            ("C:/Users/me/.ssh/id_rsa", "C:/Users/me/.ssh/id_rsa"),
            (r".\keys\lab.pem", r".\keys\lab.pem"),
            (r"..\lab.pem", r"..\lab.pem"),
            (r"keys\lab.pem", r"keys\lab.pem"),
            (r"\\nas\keys\lab.pem", r"\\nas\keys\lab.pem"),
            (r"~\.ssh\id_rsa", r"~\.ssh\id_rsa"),
            (r"%USERPROFILE%\.ssh\id_rsa", r"%USERPROFILE%\.ssh\id_rsa"),
            (r"$env:USERPROFILE\.ssh\id_rsa", r"$env:USERPROFILE\.ssh\id_rsa"),
            (r'"$env:USERPROFILE\my keys\id_rsa"', r"$env:USERPROFILE\my keys\id_rsa"),
            (r"~/my\ keys/id", "~/my keys/id"),
            ("$HOME/.ssh/id_rsa", "$HOME/.ssh/id_rsa"),
            ("/mnt/c/Users/me/.ssh/id_rsa", "/mnt/c/Users/me/.ssh/id_rsa"),
        ]
    ),
    (r"ssh -iC:\k\id root@box", Login("box", "root", 0, ("-i", r"C:\k\id"))),
    (r"ssh -oIdentityFile=C:\k\id root@box", Login("box", "root", 0, ("-i", r"C:\k\id"))),
    (r'{"cmd": "ssh -i \"C:\\Users\\me\\id\" -p 7 root@box"}', Login("box", "root", 7, ("-i", r"C:\Users\me\id"))),
    ("Host g\n  HostName 10.0.0.7\n  IdentityFile C:\\Users\\me\\.ssh\\k.pem", Login("10.0.0.7", "", 0, ("-i", r"C:\Users\me\.ssh\k.pem"))),
]
TWO = [
    "ssh -p 46457 root@connect.westb.seetacloud.com\nssh -p 46458 root@connect.westb.seetacloud.com",
    "ssh abc-64411@ssh.runpod.io -i ~/.ssh/id_ed25519\nssh root@213.173.98.10 -p 17445 -i ~/.ssh/id_ed25519",
    "Direct: ssh -p 20544 root@142.214.185.187 Proxy: ssh -p 20544 root@ssh4.vast.ai",
    "ssh -t jump@a.example ssh root@b.example",
    "ssh root@box; ssh root@other",
    "ssh root@box.example，ssh root@other.example",
    "ssh root@box 或 ssh root@other",
    "ssh root@box\nssh -p 7 root@box",
    "ssh box\nssh -p 7 root@other",
    "root@a.example.com -p 7\nroot@b.example.com -p 7",
    "Host a\n  HostName 10.0.0.1\nHost b\n  HostName 10.0.0.2",
    "主机：10.0.0.1 端口：22\n主机：10.0.0.2 端口：22",
    "| host | port |\n|---|---|\n| 10.0.0.1 | 22 |\n| 10.0.0.2 | 22 |",
    '[{"host": "10.0.0.1", "port": 22}, {"host": "10.0.0.1", "port": 23}]',
]
REFUSED = [
    ("", "empty"),
    ("\n \u200b\n", "empty"),
    ("ssh", "empty"),
    # parts that cannot be
    ("ssh -p 46457", "names no machine"),
    ("ssh ''", "names no machine"),
    ("ssh -p root@host", "no port|names no machine"),
    ("ssh -p 99999 root@host", "no port"),
    ("ssh -p 0 root@host", "no port"),
    ("ssh -p x root@host", "no port"),
    ("ssh root@host:46457 -p 22", "two ports"),
    ("ssh -Z root@host", "no option"),
    ("ssh root@host --port 22", "no option"),
    ("ssh -i '' root@host", "-i has no value"),
    ("ssh root@host -p", "-p has no value"),
    ("ssh 'root@host", "quote"),
    ("ssh root@ho$t", "no name and no address"),
    ("ssh 'ro ot@host'", "no user name"),
    ("ssh root@999.1.1.1", "no address"),
    ("ssh root@", "no name and no address"),
    ("ssh @host", "no user name"),
    ("ssh -l 'root;x' host", "no user name"),
    ("ssh CORP\\\\me@host", "no user name"),
    # more than a login
    ("ssh root@host ls", "2 words"),
    ("ssh root@host nvidia-smi -L", "3 words"),
    ('ssh root@host "rm -rf /"', "2 words"),
    ("ssh root@host; reboot", "second command"),
    ("ssh root@host && reboot", "second command"),
    ("ssh root@host | tee log", "second command"),
    ("ssh root@host > /etc/passwd", "second command"),
    ("ssh root@host:/root", "path"),
    ("git@github.com:me/repo.git", "path"),
    (r"ssh -i C:\Users\Li Ming\.ssh\id_ed25519 -p 1 root@host", "path in the login line has a blank"),
    ("ssh -i /Users/Li Ming/lab.pem root@host", "path in the login line has a blank"),
    # what a shell would run
    ("ssh 'root@;reboot'", "no name"),
    ("root@$(id):22", "no name"),
    ("ssh root@$(id):22", "no name"),
    ("ssh root@`id`", "no name"),
    ("ssh 'root@fe80::1%$(id)'", "no name"),
    ("ssh root@-oProxyCommand=x", "no name"),
    ("ssh -- -oProxyCommand=x", "no name"),
    ("ssh -J '$(id)@j' root@host", "no user name"),
    ("ssh -J 'me@$(id)' root@host", "no name"),
    ("ssh -J 'a,b;c' root@host", "no name"),
    ("ssh -i $(id) root@host", "variable"),
    ("ssh -i '`id`' root@host", "characters"),
    ("ssh -i 'a\";calc;\"' root@host", "characters"),
    (r"ssh -i %APPDATA%\id root@host", "variable"),
    ("ssh -i $KEY root@host", "variable"),
    ("Host g\n  HostName $(id)", "no name"),
    # options outside the list, however they are written
    ("ssh '-oProxyCommand=touch x' root@host", "ProxyCommand makes ssh run a program"),
    ("ssh -o '\"ProxyCommand\" xcalc' root@host", "ProxyCommand makes ssh run a program"),
    ("ssh -o ProxyCommand\\ =x root@host", "ProxyCommand makes"),
    ("ssh -o 'ProxyCommand\tx' root@host", "ProxyCommand makes"),
    ("ssh -o 'Pro\"xyCom\"mand x' root@host", "ProxyCommand makes"),
    ("ssh -oPROXYCOMMAND=x root@host", "ProxyCommand makes"),
    ("ssh -vCoProxyCommand=x root@host", "ProxyCommand makes"),
    ("ssh -o ' proxycommand = x' root@host", "ProxyCommand makes"),
    ("ssh -o ＰｒｏｘｙＣｏｍｍａｎｄ＝ｘ root@host", "ProxyCommand makes"),
    ("ssh -o Pro\u200bxyCommand=x root@host", "ProxyCommand makes"),
    ('ssh -o "ProxyCommand=ssh -W %h:%p jump" root@host', "ProxyCommand makes"),
    ("-oProxyCommand=x root@host.example", "ProxyCommand makes"),
    ("root@host.example -oProxyCommand=x", "ProxyCommand makes"),
    ("Host g\n  HostName 10.0.0.7\n  ProxyCommand nc %h %p", "ProxyCommand makes"),
    ("ssh -o LocalCommand=x -o PermitLocalCommand=yes root@host", "LocalCommand makes"),
    ("ssh -o KnownHostsCommand=x root@host", "KnownHostsCommand makes"),
    ("ssh -o PKCS11Provider=/tmp/x.so root@host", "PKCS11Provider makes"),
    ("ssh -I /tmp/x.so root@host", "-I .PKCS11Provider"),
    ("ssh -F file root@host", "option -F"),
    ("ssh -Ffile root@host", "option -F"),
    ("ssh -o Include=file root@host", "option Include"),
    ("Match exec calc\n  HostName 10.0.0.7", "option Match"),
    ("ssh -o RemoteForward=1 root@host", "option RemoteForward"),
    ("ssh -R 80:localhost:80 root@host", "option -R"),
    ("ssh -o DynamicForward=1080 root@host", "option DynamicForward"),
    ("ssh -D 1080 root@host", "option -D"),
    ("ssh -o GatewayPorts=yes root@host", "option GatewayPorts"),
    ("ssh -E /tmp/log root@host", "option -E"),
    ("ssh -W host:22 root@host", "option -W"),
    ("ssh -P 46457 root@host", "the port is a small -p"),
    ("ssh -o Frobnicate=yes root@host", "name that ssh does not have"),
    ("ssh -o 'StrictHostKeyChecking=no;x' root@host", "StrictHostKeyChecking has a value"),
    ("ssh -o IdentitiesOnly root@host", "IdentitiesOnly is not written"),
    ("ssh root@host -o", "-o has no value"),
    # no login at all
    ("https://a123.westb.seetacloud.com:8443/jupyter/lab?token=abc", "web page"),
    ("http://127.0.0.1:8888/lab?token=abc", "web page"),
    ("127.0.0.1:8888/lab?token=abc", "web page"),
    ("u123-abc.westb.seetacloud.com:8443", "web page"),
    ("ssh https://region-1.autodl.com", "web page"),
    ("ssh http://root@host.example", "web page"),
    ("www.autodl.com/console/instance/list", "web page"),
    ("https://root@host.example/x", "web page"),
    (SECRET, "could be a password"),
    ("tnKqJ8wdP2mz", "could be a password"),
    ("hunter2", "could be a password"),
    ("P@ssw0rd", "could be a password"),
    ("P@ssw0rd.2024", "could be a password"),
    (f"密码：{SECRET}", "password, but no login"),
    ("Password: correct horse", "password, but no login"),
    ("correct horse battery staple", "no ssh command"),
    ("Login via SSH", "no ssh command"),
    ("ssh -p <port> root@<host>", "template"),
    ("ssh root@YOUR_SERVER_IP", "template"),
    ("ssh root@xxx.xxx.xxx.xxx", "template"),
    ("scp -P 46457 a root@host.example:/root", "copies files"),
    ("ssh-copy-id -p 46457 root@host.example", "deals with keys"),
    ("plink -P 46457 -pw x root@host.example", "PuTTY"),
    ("gcloud compute ssh my-vm --zone us-central1-a", "platform's program"),
    ("root@host.example: Permission denied (publickey).", "ssh answered"),
    ("root@autodl-container-8a2c11a752:~#", "prompt"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE", "private key"),
    ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@mac", "public key"),
    ("me.you@gmail.com", "e-mail"),
    ("x" * (LONGEST + 1), "too long"),
]


@pytest.mark.parametrize("paste", SAME)
def test_every_form_of_one_login(paste: str) -> None:
    assert read_login(paste) == AUTODL


@pytest.mark.parametrize(("paste", "login"), OTHERS)
def test_other_logins(paste: str, login: Login) -> None:
    assert read_login(paste) == login


@pytest.mark.parametrize("paste", TWO)
def test_two_different_logins_are_asked_about(paste: str) -> None:
    with pytest.raises(SettingError, match="two different logins") as failure:
        read_login(paste)
    assert "Which one?" in failure.value.fix


def test_the_two_are_told_apart_by_their_machines() -> None:
    with pytest.raises(SettingError, match="connect.westb.seetacloud.com port 46457 and connect.westb.seetacloud.com port 46458"):
        read_login(TWO[0])


@pytest.mark.parametrize(("paste", "says"), REFUSED)
def test_what_is_no_login_is_told_by_its_kind(paste: str, says: str) -> None:
    with pytest.raises(SettingError, match=says) as failure:
        read_login(paste)
    assert failure.value.fix


@pytest.mark.parametrize("paste", [None, 8080, ["ssh", "root@host"]])
def test_what_is_no_text_is_refused(paste: object) -> None:
    with pytest.raises(SettingError, match="not text"):
        read_login(paste)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "paste",
    [
        "ssh root@SECRET$",
        "ssh -p SECRET root@host",
        "ssh -SECRET root@host",
        "ssh --SECRET root@host",
        "ssh -o SECRET=1 root@host",
        "ssh -o ProxyCommand=SECRET root@host",
        "ssh -o StrictHostKeyChecking=SECRET root@host",
        "ssh -i '$SECRET' root@host",
        "ssh -J 'SECRET!@x' root@host",
        "ssh root@host ls SECRET",
        "ssh root@host; echo SECRET",
        "ssh 'root@host SECRET",
        "SECRET",
        "SECRET!",
        "密码 SECRET",
        "https://host.example/?token=SECRET",
        "root@$(SECRET):22",
        "curl -u root:SECRET host.example",
        "Host g\n HostName SECRET!\n",
        "ssh box SECRET\nssh other SECRET",
    ],
)
def test_no_error_repeats_what_was_pasted(paste: str) -> None:
    with pytest.raises(SettingError) as failure:
        read_login(paste.replace("SECRET", "Zq7xKw"))
    assert all("Zq7xKw" not in text for text in everything_said(failure.value))


def everything_said(error: BaseException | None) -> Iterator[str]:
    """The texts of an error and of all errors behind it."""
    while error:
        yield f"{error!r} {error} {error.args} {getattr(error, '__notes__', '')}"
        error = error.__cause__ or error.__context__


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs ssh (apt-get install -y openssh-client)")
@pytest.mark.parametrize("login", [AUTODL, *(login for _, login in OTHERS)])
def test_ssh_reads_the_words_as_the_same_login(login: Login) -> None:
    told = as_ssh_reads_it(login)
    assert told["hostname"].lower() == login.host.lower()
    assert login.port in (0, int(told["port"]))
    assert login.user in ("", told["user"])
    assert not {"proxycommand", "localcommand", "remotecommand", "pkcs11provider", "localforward", "dynamicforward"} & told.keys()


def as_ssh_reads_it(login: Login) -> dict[str, str]:
    """What `ssh -G` makes of the words, without anybody's configuration."""
    shown = subprocess.run(["ssh", "-G", "-F", "/dev/null", *login.words], capture_output=True, text=True, check=True, timeout=30)
    return dict(line.split(" ", 1) for line in shown.stdout.splitlines() if " " in line)


def test_an_address_is_told_from_a_name() -> None:
    assert is_address("10.0.0.7") and is_address("fe80::1%eth0") and not is_address("box") and not is_address("::1%;")

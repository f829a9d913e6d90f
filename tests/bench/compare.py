"""Interleaved comparison of gateways on one machine, each with one core.

  python compare.py TARGETS.json [--only "a;b"] [--points call:1,call:32] [--rounds 3] [--duration 10]

Core 0 runs the driver and the upstream fixtures, core 1 (--core) the gateway
under test. Every point is run for every target before the next round starts
(A B C A B C ...). Targets that are not being measured are stopped (SIGSTOP),
so their background work costs nothing. Only processes started here are
signalled, by pid. Answers are checked by drive.py; wrong ones count as errors.

A target (see targets/*.json; {py:NAME}, {root}, {here}, {tmp} are replaced):
  name, cmd [..] (absent: nothing is started, e.g. the direct upstream), env {}, cwd,
  url, headers [..], mode legacy|stateless, tool, ready {url, status, timeout},
  setup [..] (run once when ready; a JSON object on its last line overrides url/headers/tool),
  of (name of a target started earlier whose process this one shares, e.g. with another mode),
  points (restricts which workloads it takes), core (default --core), args {workload: [drive args]}

A point is WORKLOAD:CONNS[:drive args with + for space], e.g. call:32, blob:8:--size+50000.
"""
from __future__ import annotations

import argparse
import json
import os
import signal
import statistics as st
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------- /proc
def tree(pid):
    """pid and its descendants."""
    kids = {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                with open(f"/proc/{d}/stat", "rb") as f:
                    s = f.read()
                pp = int(s[s.rfind(b")") + 2:].split()[1])
                kids.setdefault(pp, []).append(int(d))
            except (OSError, ValueError):
                pass
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        if os.path.exists(f"/proc/{p}"):
            out.append(p)
            todo += kids.get(p, [])
    return out


def rss_mb(pids):
    t = 0
    for p in pids:
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                for line in f:
                    if line.startswith("Pss:"):
                        t += int(line.split()[1]) * 1024
                        break
        except OSError:
            pass
    return t / 1e6


def rss_sum_mb(pids):
    t = 0
    for p in pids:
        try:
            with open(f"/proc/{p}/statm") as f:
                t += int(f.read().split()[1]) * PAGE
        except OSError:
            pass
    return t / 1e6


def cpu_s(pids):
    t = 0
    for p in pids:
        try:
            with open(f"/proc/{p}/stat", "rb") as f:
                s = f.read()
            v = s[s.rfind(b")") + 2:].split()
            t += int(v[11]) + int(v[12])
        except OSError:
            pass
    return t / TICK


def core_busy(core):
    with open("/proc/stat") as f:
        for line in f:
            if line.startswith(f"cpu{core} "):
                v = list(map(int, line.split()[1:9]))
                return (sum(v) - v[3] - v[4]) / TICK, v[7] / TICK
    return 0.0, 0.0


# ---------------------------------------------------------------- processes
AG_NICE = 0


def own_group():
    """In the child: a session of its own, and (when asked and permitted) its autogroup's nice.

    With CONFIG_SCHED_AUTOGROUP a process's nice only counts inside its session, so a
    neighbour at nice 15 still takes half a core; the autogroup's own nice is what counts.
    """
    os.setsid()
    if AG_NICE:
        try:
            with open("/proc/self/autogroup", "w") as f:
                f.write(str(AG_NICE))
        except OSError:
            pass


class Proc:
    def __init__(self, name, cmd, env, cwd, core, logdir):
        self.log = open(os.path.join(logdir, name.replace("/", "_").replace(" ", "_") + ".log"), "wb")
        e = dict(os.environ)
        e.update(env or {})
        self.t0 = time.time()
        self.p = subprocess.Popen(["taskset", "-c", str(core), *cmd], env=e, cwd=cwd or None,
                                  stdout=self.log, stderr=subprocess.STDOUT, preexec_fn=own_group)

    def pids(self):
        return tree(self.p.pid)

    def sig(self, s):
        for p in self.pids():
            try:
                os.kill(p, s)
            except OSError:
                pass

    def end(self):
        pids = self.pids()
        for s in (signal.SIGCONT, signal.SIGTERM):
            for p in pids:
                try:
                    os.kill(p, s)
                except OSError:
                    pass
        try:
            self.p.wait(8)
        except subprocess.TimeoutExpired:
            pass
        for p in set(pids):
            try:
                with open(f"/proc/{p}/stat", "rb") as f:
                    z = f.read()
                if z[z.rfind(b")") + 2:z.rfind(b")") + 3] != b"Z":
                    os.kill(p, signal.SIGKILL)
            except OSError:
                pass
        try:
            self.p.wait(5)
        except subprocess.TimeoutExpired:
            pass


def wait_ready(r, proc):
    """Seconds from process start to the first good answer."""
    end = time.time() + r.get("timeout", 60)
    want = r.get("status", [200])
    want = want if isinstance(want, list) else [want]
    last = None
    while time.time() < end:
        if proc and proc.p.poll() is not None:
            raise RuntimeError(f"exited with {proc.p.returncode} before it was ready")
        try:
            req = urllib.request.Request(r["url"], headers=r.get("headers", {}), method=r.get("method", "GET"),
                                         data=r["data"].encode() if "data" in r else None)
            with urllib.request.urlopen(req, timeout=2) as f:
                code = f.status
        except urllib.error.HTTPError as e:
            code = e.code
        except Exception as e:
            last, code = e, None
        if code in want:
            return time.time() - proc.t0 if proc else 0.0
        last = code or last
        time.sleep(0.02)
    raise RuntimeError(f"not ready: {last}")


def subst(x, m):
    if isinstance(x, str):
        for k, v in m.items():
            x = x.replace("{" + k + "}", v)
        return x
    if isinstance(x, list):
        return [subst(i, m) for i in x]
    if isinstance(x, dict):
        return {k: subst(v, m) for k, v in x.items()}
    return x


def drive(py, t, point, a):
    w, c, *more = point.split(":", 2)
    cmd = ["taskset", "-c", str(a.driver_core), py, os.path.join(HERE, "drive.py"), t["url"], "--workload", w,
           "--conns", c, "--duration", str(a.duration), "--warm", str(a.warm),
           "--mode", t.get("mode", "legacy"), "--tool", t.get("tool", "echo")]
    for h in t.get("headers", []):
        cmd += ["-H", h]
    if more:
        cmd += more[0].replace("+", " ").split()
    cmd += t.get("args", {}).get(w, [])
    pr = t.get("_proc")
    core = t.get("core", a.core)
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=own_group)
    c0 = c1 = b0 = b1 = w0 = w1 = s0 = s1 = None
    rss, out_rss, out = 0.0, 0.0, None
    for line in p.stdout:
        if line.startswith("MARK"):
            pids = pr.pids() if pr else []
            if line.startswith("MARK start"):
                c0, (b0, s0), w0 = cpu_s(pids), core_busy(core), time.time()
            else:
                c1, (b1, s1), w1 = cpu_s(pids), core_busy(core), time.time()
                rss, out_rss = rss_mb(pids), rss_sum_mb(pids)
        elif line.startswith("{"):
            out = json.loads(line)
    err = p.stderr.read()
    p.wait()
    if out is None:
        return {"fail": (err or "no output")[-400:]}
    if c1 is not None and "n" in out:
        out["cpu_us"] = round((c1 - c0) * 1e6 / out["n"], 1) if pr and out["n"] else None
        out["gw_core_pct"] = round(100 * (c1 - c0) / (w1 - w0), 1) if pr else None
        out["other_on_core_pct"] = round(100 * max(0.0, (b1 - b0) - (c1 - c0)) / (w1 - w0), 1) if pr else None
        out["pss_mb"] = round(rss, 1) if pr else None
        out["rss_mb"] = round(out_rss, 1) if pr else None
    return out


def med(xs):
    xs = [x for x in xs if x is not None]
    return (st.median(xs), min(xs), max(xs)) if xs else (None, None, None)


def fmt(t, d=0):
    return "-" if t[0] is None else f"{t[0]:.{d}f} ({t[1]:.{d}f}-{t[2]:.{d}f})"


def table(targets, point, res):
    stream = point.startswith("stream")
    base = res.get((targets[0]["name"], point)) or []
    names = [t["name"] for t in targets if (t["name"], point) in res]
    for rs in (res[k] for k in res if k[1] == point):
        for r in rs:
            if r.get("cpu_us"):
                r["cap"] = round(1e6 / r["cpu_us"], 1)   # req/s if the gateway had its core to itself
    b = med([r.get("rps") for r in base])[0]
    bp = med([r.get("p50_us") for r in base])[0]
    second = next((n for n in names if n != targets[0]["name"]), None)
    s = med([r.get("cap") for r in res.get((second, point), [])])[0] if second else None
    print(f"\n### {point}\n")
    cols = ["target", "req/s (min-max)", "p50 us", "p95 us", "p99 us", "CPU us/req", "req/s per full core", "core %",
            "others on core %", "RSS MB", "err", f"req/s x {targets[0]['name']}", f"per core x {second}", "added p50 us"]
    if stream:
        cols += ["TTFC p50 us", "TTFC p99 us", "chunks/s"]
    print("| " + " | ".join(cols) + " |\n|" + "---|" * len(cols))
    for n in names:
        rs = res[(n, point)]
        bad = [r["fail"] for r in rs if "fail" in r]
        if all("fail" in r for r in rs):
            print(f"| {n} | FAIL {bad[0][:150]!r} |")
            continue
        g = lambda k: med([r.get(k) for r in rs])  # noqa: E731
        rps, p50 = g("rps"), g("p50_us")
        row = [n, fmt(rps), fmt(p50), fmt(g("p95_us")), fmt(g("p99_us")), fmt(g("cpu_us"), 1), fmt(g("cap")),
               fmt(g("gw_core_pct")), fmt(g("other_on_core_pct")), fmt(g("rss_mb")), str(sum(r.get("errors", 0) for r in rs)) + (f" +{len(bad)} failed runs" if bad else ""),
               f"{rps[0] / b:.3f}" if b and rps[0] else "-", f"{g('cap')[0] / s:.3f}" if s and g("cap")[0] else "-",
               f"{p50[0] - bp:.0f}" if bp and p50[0] else "-"]
        if stream:
            row += [fmt(g("ttfb_p50_us")), fmt(g("ttfb_p99_us")), fmt(g("chunks_s"))]
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("targets")
    ap.add_argument("--only", default="")
    ap.add_argument("--points", default="")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--duration", type=float, default=10)
    ap.add_argument("--warm", type=float, default=2)
    ap.add_argument("--core", type=int, default=1)
    ap.add_argument("--driver-core", type=int, default=0)
    ap.add_argument("--venvs", default=os.environ.get("BENCH_VENVS", "/tmp/mcpgw-bench/venv"))
    ap.add_argument("--tmp", default="/tmp/mcpgw-bench/run")
    ap.add_argument("--out", default="")
    ap.add_argument("--autogroup-nice", type=int, default=0,
                    help="nice of the sessions started here against other sessions on a shared machine (root)")
    ap.add_argument("--no-park", action="store_true", help="leave unmeasured targets running")
    a = ap.parse_args()
    global AG_NICE
    AG_NICE = a.autogroup_nice
    os.makedirs(a.tmp, exist_ok=True)
    m = {"here": HERE, "tmp": a.tmp, "root": os.path.dirname(a.venvs)}
    for v in os.listdir(a.venvs) if os.path.isdir(a.venvs) else ():
        m["py:" + v] = os.path.join(a.venvs, v, "bin/python")
        m["bin:" + v] = os.path.join(a.venvs, v, "bin")
    m.setdefault("py:base", sys.executable)
    spec = subst(json.load(open(a.targets)), m)
    py = m["py:base"]
    points = [p for p in (a.points.split(",") if a.points else spec["points"]) if p]
    targets = spec["targets"]
    if a.only:
        keep = set(a.only.split(";"))
        targets = [t for t in targets if t["name"] in keep or t.get("always")]
    fixtures, started = [], []
    res, info = {}, {}
    try:
        for f in spec.get("fixtures", []):
            pr = Proc("fixture-" + f["name"], f["cmd"], f.get("env"), f.get("cwd"), f.get("core", a.driver_core), a.tmp)
            fixtures.append(pr)
            wait_ready(f["ready"], pr)
        alive = []
        for t in targets:
            if "cmd" in t:
                pr = Proc(t["name"], t["cmd"], t.get("env"), t.get("cwd"), t.get("core", a.core), a.tmp)
                started.append(pr)
                t["_proc"] = pr
                try:
                    up = wait_ready(t["ready"], pr)
                    if t.get("setup"):
                        o = subprocess.run(t["setup"], capture_output=True, text=True, timeout=300,
                                           env={**os.environ, **t.get("env", {})})
                        if o.returncode:
                            raise RuntimeError("setup: " + (o.stdout + o.stderr)[-600:])
                        last = o.stdout.strip().splitlines()[-1] if o.stdout.strip() else "{}"
                        t.update(json.loads(last) if last.startswith("{") else {})
                    time.sleep(1)
                    info[t["name"]] = {"ready_s": round(up, 2), "idle_pss_mb": round(rss_mb(pr.pids()), 1),
                                       "idle_rss_mb": round(rss_sum_mb(pr.pids()), 1),
                                       "procs": len(pr.pids())}
                    print(f"# {t['name']}: ready in {up:.2f} s, idle RSS {info[t['name']]['idle_rss_mb']} MB "
                          f"(PSS {info[t['name']]['idle_pss_mb']}), "
                          f"{info[t['name']]['procs']} process(es)", flush=True)
                except Exception as e:
                    print(f"# {t['name']}: NOT STARTED: {e}", flush=True)
                    info[t["name"]] = {"fail": str(e)[-500:]}
                    pr.end()
                    continue
                if not a.no_park:
                    pr.sig(signal.SIGSTOP)
            elif t.get("of"):        # another view of a process started above
                o = next((x for x in targets if x["name"] == t["of"] and "_proc" in x), None)
                if o is None or o not in alive:
                    continue
                for k in ("_proc", "url", "headers", "tool"):
                    if k in o:
                        t.setdefault(k, o[k])
            alive.append(t)
        for rnd in range(a.rounds):
            for pt in points:
                for t in alive:
                    if t.get("points") and pt.split(":")[0] not in t["points"]:
                        continue
                    pr = t.get("_proc")
                    if pr and not a.no_park:
                        pr.sig(signal.SIGCONT)
                        time.sleep(0.3)
                    r = drive(py, t, pt, a)
                    res.setdefault((t["name"], pt), []).append(r)
                    print(f"# round {rnd + 1} {pt} {t['name']}: " + (
                        "FAIL " + r["fail"][:300] if "fail" in r else
                        f"{r['rps']} req/s p50 {r['p50_us']} p99 {r['p99_us']} us cpu {r.get('cpu_us')} us "
                        f"core {r.get('gw_core_pct')}% other {r.get('other_on_core_pct')}% err {r['errors']} "
                        + (str(r["error_kinds"])[:300] if r["error_kinds"] else "")), flush=True)
                    if pr and not a.no_park:
                        pr.sig(signal.SIGSTOP)
        for pt in points:
            table(alive, pt, res)
    finally:
        for pr in started + fixtures:
            pr.end()
    if a.out:
        with open(a.out, "w") as f:
            json.dump({"argv": sys.argv, "info": info, "results": [
                {"target": k[0], "point": k[1], "runs": v} for k, v in res.items()]}, f, indent=1)


if __name__ == "__main__":
    main()

"use strict";
(() => {
  // Milliseconds from one look to the next, and from one drawing of a run's page; and so many times what drawing took.
  const EVERY = 1000, REDRAWN = 3000, SLOWER = 1;
  const at = (id) => document.getElementById(id);
  let chosen = null, drawn = { name: null, version: null, due: 0 };

  const whole = (value) => (value == null ? "" : Math.round(value).toLocaleString("en"));
  const brief = (value) => (value == null ? "" : String(Number(value.toPrecision(4))));
  const percent = (value) => (100 * value).toFixed(2) + " %";
  const lasting = (seconds) => {
    if (seconds == null) return "";
    const s = Math.round(seconds);
    return s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  };
  const measured = (one) =>
    one.value == null ? "" : `${one.measure.replaceAll("_", " ")} ${one.measure.endsWith("accuracy") ? percent(one.value) : brief(one.value)}`;
  const of = (value, all) => (value == null ? "" : whole(value) + (all ? ` / ${whole(all)}` : ""));

  function made(tag, text, className) {
    const node = document.createElement(tag);
    if (text != null) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function row(one) {
    const line = made("tr", null, one.name === chosen ? "chosen" : "");
    const name = made("button", one.name);
    name.type = "button";
    name.setAttribute("aria-pressed", String(one.name === chosen));
    name.addEventListener("click", () => { chosen = one.name; look(); });
    const first = made("td");
    first.append(name);
    const state = made("td", one.state, one.state);
    if (one.stage) state.append(made("small", one.stage));
    if (one.state === "stale") state.title = `nothing was written for ${lasting(one.age)}`;
    const progress = made("td");
    if (one.total) {
      const bar = made("progress");
      [bar.max, bar.value] = [one.total, Math.min(one.done ?? 0, one.total)];
      bar.setAttribute("aria-label", `${one.done ?? 0} of ${one.total}`);
      progress.append(bar);
    }
    const run = one.kind === "run";
    line.append(first, state, progress);
    for (const text of [
      run ? of(one.epoch, one.epochs && Math.ceil(one.epochs)) : "", of(one.done, one.total) + (run ? "" : " runs"),
      one.rate ? `${one.rate >= 100 ? whole(one.rate) : brief(Number(one.rate.toPrecision(3)))}/s` : "", brief(one.loss), measured(one), lasting(one.left),
    ]) line.append(made("td", text, "number"));
    return line;
  }

  // The next drawing is loaded behind the present one and takes its place, scrolled as it was.
  function draw(one) {
    const same = drawn.name === one.name;
    const coming = at("frames").querySelector(".coming");
    if (same && (drawn.version === one.version || coming || Date.now() < drawn.due)) return;
    if (coming) coming.remove();
    const began = Date.now();
    drawn = { name: one.name, version: one.version, due: began + REDRAWN };
    const frame = made("iframe", null, "coming");
    frame.title = `The page of ${one.name}`;
    frame.src = `run?name=${encodeURIComponent(one.name)}&version=${encodeURIComponent(one.version)}`;
    frame.addEventListener("load", () => {
      const before = [...at("frames").children].filter((other) => other !== frame);
      if (same && before[0]?.contentWindow) frame.contentWindow.scrollTo(0, before[0].contentWindow.scrollY);
      drawn.due = Math.max(drawn.due, Date.now() + SLOWER * (Date.now() - began));
      frame.classList.remove("coming");
      before.forEach((other) => other.remove());
    });
    at("frames").append(frame);
  }

  function show(found) {
    const focused = document.activeElement?.closest?.("#rows button")?.textContent;
    if (!found.some((one) => one.name === chosen)) chosen = found.length ? found[0].name : null;
    at("rows").replaceChildren(...found.map(row));
    if (focused) [...document.querySelectorAll("#rows button")].find((one) => one.textContent === focused)?.focus();
    at("none").hidden = found.length > 0;
    const one = found.find((each) => each.name === chosen);
    at("shown").hidden = !one;
    if (!one) return;
    at("name").textContent = one.name;
    const said = one.state === "stale" ? [`Nothing was written for ${lasting(one.age)}.`] : [];
    if (one.stage) said.push(`In stage ${one.stage.replace(" ", ": ").replace("/", " of ")}.`);
    at("said").textContent = [...said, one.said].join(" ");
    draw(one);
  }

  let turn = 0;
  async function look() {
    const mine = ++turn;
    try {
      const answer = await (await fetch("standing")).json();
      if (mine !== turn) return;
      at("trouble").hidden = !answer.error;
      at("trouble").textContent = answer.error ?? "";
      show(answer.standing);
      const running = answer.standing.filter((one) => one.state === "running").length;
      at("pulse").textContent = `${running} running`;
      document.title = `${running} running – onecycle watch`;
    } catch {
      at("trouble").hidden = false;
      at("trouble").textContent = "onecycle watch does not answer: it was stopped. Start it again, and this page goes on.";
      at("pulse").textContent = "not connected";
    }
    if (mine === turn) setTimeout(() => mine === turn && look(), EVERY);
  }
  look();
})();

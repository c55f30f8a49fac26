"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const all = (query) => [...document.querySelectorAll(query)];
  const one = (query) => document.querySelector(query);
  const data = JSON.parse(one("#data").textContent);
  const words = (k) => (k === 1 ? "token" : "tokens");
  const between = (low, value, high) => Math.min(high, Math.max(low, value));
  const closeUp = one("#close-up");
  const help = one("#help");
  let at = data.start;
  let place = 0;

  // what a model shows at a token count: its nearest below
  const nearest = (model, k) => model.lanes.filter((lane) => lane.k <= k).pop();
  const put = (element, where) => {
    element.style.setProperty("--x", where % data.columns);
    element.style.setProperty("--y", Math.floor(where / data.columns));
  };

  // one slider moves every model of the gallery and of the close-up, and marks its token count in the curves
  const show = (to) => {
    if (!data.stops.length) return;
    at = between(0, to, data.stops.length - 1);
    const k = data.stops[at];
    for (const lane of all(".lane")) {
      const found = nearest(data.models[lane.dataset.model], k);
      for (const row of lane.querySelectorAll(".variant")) {
        row.hidden = !found || Number(row.dataset.k) !== found.k;
        const near = row.querySelector(".near");
        near.hidden = Number(row.dataset.k) === k;
        near.textContent = `, its nearest below ${k}`;
      }
      lane.querySelector(".absent").hidden = Boolean(found);
    }
    for (const point of all(".point")) point.classList.toggle("at", data.models.length > 0 && Number(point.dataset.k) === k);
    for (const slider of all(".slider")) {
      const input = slider.querySelector("input");
      input.value = at;
      input.setAttribute("aria-valuetext", `${k} ${words(k)}`);
      slider.querySelector("output b").textContent = k.toLocaleString("en");
      slider.querySelector("output span").textContent = words(k);
    }
    for (const tick of all(".ticks button")) tick.setAttribute("aria-current", Number(tick.dataset.at) === at);
    if (closeUp?.open) draw();
  };
  for (const input of all(".slider input")) input.addEventListener("input", () => show(Number(input.value)));
  for (const tick of all(".ticks button")) tick.addEventListener("click", () => show(Number(tick.dataset.at)));

  // the first picture of the page
  const hero = one("#hero");
  const turnHero = (to) => {
    const chosen = (to + data.gallery) % data.gallery;
    hero.dataset.place = chosen;
    put(hero, chosen);
    hero.querySelector("output").textContent = `${chosen + 1} of ${data.gallery}`;
    for (const cell of all("#hero .cell")) {
      const lane = data.models[cell.dataset.model].lanes.find(({ k }) => k === Number(cell.dataset.k));
      cell.querySelector(".small").textContent = lane.captions[chosen] ?? "";
    }
  };
  for (const button of all("#hero [data-step]")) {
    button.addEventListener("click", () => turnHero(Number(hero.dataset.place || 0) + Number(button.dataset.step)));
  }

  // one image, large
  const figure = (name, kind) => {
    const made = document.createElement("figure");
    const tile = made.appendChild(document.createElement("i"));
    tile.setAttribute("role", "img");
    tile.className = kind;
    made.appendChild(document.createElement("figcaption"));
    made.dataset.name = name;
    one("#close-up .large").append(made);
    return made;
  };
  const large = closeUp ? [figure("Original", "tile s0"), ...data.models.map((m) => figure(m.name, "tile fake"))] : [];
  const draw = () => {
    const k = data.stops[at];
    one("#close-up-title").textContent = `Image ${data.numbers[place]}`;
    large.forEach((made, i) => {
      const [tile, caption] = made.children;
      const lane = i ? nearest(data.models[i - 1], k) : null;
      made.classList.toggle("void", i > 0 && !lane);
      put(tile, place);
      let text = "";
      if (i) tile.className = lane ? `tile fake s${lane.sheet}` : "tile";
      if (lane) {
        text = `${lane.k} ${words(lane.k)}${lane.k === k ? "" : `, its nearest below ${k}`}`;
        if (lane.captions.length) text += `, ${lane.captions[place]} ${data.unit}`;
      } else if (i) {
        const least = data.models[i - 1].lanes[0];
        text = least ? `takes ${least.k} ${words(least.k)} at least` : "no pictures";
      }
      caption.replaceChildren(Object.assign(document.createElement("b"), { textContent: made.dataset.name }), ` ${text}`);
      tile.setAttribute("aria-label", `image ${data.numbers[place]}, ${made.dataset.name}${text && `: ${text}`}`);
    });
  };
  const look = (where) => {
    if (!closeUp || !data.count) return;
    place = (where + data.count) % data.count;
    if (!closeUp.open) closeUp.showModal();
    draw();
  };
  for (const spot of all("button[data-place], figure[data-place]")) {
    spot.addEventListener("click", () => look(Number(spot.dataset.place)));
  }
  for (const button of all("#close-up [data-step]")) {
    button.addEventListener("click", () => look(place + Number(button.dataset.step)));
  }
  for (const dialog of all("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  one("#close-up .shut")?.addEventListener("click", () => closeUp.close());
  one("button.zoom")?.addEventListener("click", () => look(place));
  for (const button of all("button.ask")) button.addEventListener("click", () => help.showModal());

  // difference from the original
  const differ = (on) => {
    root.classList.toggle("diff", on);
    for (const button of all(".differ")) button.setAttribute("aria-pressed", on);
  };
  for (const button of all(".differ")) button.addEventListener("click", () => differ(!root.classList.contains("diff")));

  // dark and light: as the system has it, until somebody chooses
  const theme = one("#theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  const paint = (chosen) => { root.dataset.theme = chosen; name(); };
  theme.addEventListener("click", () => paint(dark() ? "light" : "dark"));
  system.addEventListener("change", name);
  name();

  // curves over tokens or over bits
  const axes = all(".switch button");
  const turn = (axis) => {
    root.dataset.axis = axis;
    for (const button of axes) button.setAttribute("aria-pressed", button.dataset.axis === axis);
  };
  for (const button of axes) button.addEventListener("click", () => turn(button.dataset.axis));
  for (const group of all(".switch")) group.hidden = all(".plot.bits").length === 0;
  turn(data.axis);

  // keys
  const keys = {
    ArrowLeft: () => show(at - 1),
    ArrowRight: () => show(at + 1),
    ArrowUp: () => closeUp?.open && look(place - 1),
    ArrowDown: () => closeUp?.open && look(place + 1),
    z: () => (closeUp?.open ? closeUp.close() : look(place)),
    d: () => differ(!root.classList.contains("diff")),
    t: () => axes.length && turn(axes[(axes.findIndex((b) => b.dataset.axis === root.dataset.axis) + 1) % axes.length].dataset.axis),
    "?": () => (help.open ? help.close() : help.showModal()),
  };
  document.addEventListener("keydown", (event) => {
    const arrow = event.key.startsWith("Arrow");
    const native = arrow && (event.target.closest(".scroll, pre") || (event.target.closest("input") && /Left|Right/.test(event.key)));
    if (event.altKey || event.ctrlKey || event.metaKey || native || !Object.hasOwn(keys, event.key)) return;
    if (keys[event.key]() !== false) event.preventDefault();
  });

  // values of points, at the pointer
  const tip = one("#tip");
  for (const point of all(".point")) {
    point.querySelector("title").remove();
    point.addEventListener("pointerenter", () => {
      tip.textContent = point.dataset.tip;
      tip.hidden = false;
      const box = point.getBoundingClientRect();
      const left = box.left + box.width / 2 - tip.offsetWidth / 2;
      tip.style.left = `${between(8, left, root.clientWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${box.top > tip.offsetHeight + 12 ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
    });
    point.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // what the address asks for
  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const k = Number(asked.get("tokens"));
    show(asked.has("tokens") ? data.stops.filter((stop) => stop <= k).length - 1 : at);
    if (asked.has("diff")) differ(true);
    if (axes.some((button) => button.dataset.axis === asked.get("axis"))) turn(asked.get("axis"));
    if (["dark", "light"].includes(asked.get("theme"))) paint(asked.get("theme"));
    const wanted = data.numbers.indexOf(Number(asked.get("image")));
    if (asked.has("image") && wanted >= 0) look(wanted);
  };
  addEventListener("hashchange", read);
  read();
})();

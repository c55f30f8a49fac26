"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const all = (query) => [...document.querySelectorAll(query)];

  // one slider moves every row of the gallery, and marks its token count in the curves
  const slider = document.getElementById("k");
  const variants = all(".variant");
  const counts = [...new Set(variants.map((row) => Number(row.dataset.k)))];
  const show = (at) => {
    const k = counts[at];
    for (const row of variants) row.hidden = Number(row.dataset.k) !== k;
    for (const point of all(".point")) point.classList.toggle("at", Number(point.dataset.k) === k);
    if (!slider) return;
    slider.value = at;
    const words = k === 1 ? "token" : "tokens";
    slider.setAttribute("aria-valuetext", `${k} ${words}`);
    document.querySelector(".slider output b").textContent = k.toLocaleString("en");
    document.querySelector(".slider output span").textContent = words;
    for (const tick of all(".ticks button")) tick.setAttribute("aria-current", Number(tick.dataset.at) === at);
  };
  if (slider) {
    document.querySelector(".slider").hidden = false;
    slider.addEventListener("input", () => show(Number(slider.value)));
    for (const tick of all(".ticks button")) tick.addEventListener("click", () => show(Number(tick.dataset.at)));
    document.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const busy = event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, .scroll, pre");
      if (!step || busy) return;
      event.preventDefault();
      show(Math.min(counts.length - 1, Math.max(0, Number(slider.value) + step)));
    });
  }
  if (counts.length) show(slider ? Number(slider.value) : 0);

  // curves over tokens or over bits
  const axes = all(".switch button");
  const turn = (axis) => {
    root.dataset.axis = axis;
    for (const button of axes) button.setAttribute("aria-pressed", button.dataset.axis === axis);
  };
  for (const button of axes) button.addEventListener("click", () => turn(button.dataset.axis));
  for (const group of all(".switch")) group.hidden = all(".plot.bits").length === 0;
  turn("tokens");

  // values of points, at the pointer
  const tip = document.getElementById("tip");
  for (const point of all(".point")) {
    point.querySelector("title").remove();
    point.addEventListener("pointerenter", () => {
      tip.textContent = point.dataset.tip;
      tip.hidden = false;
      const box = point.getBoundingClientRect();
      const left = box.left + box.width / 2 - tip.offsetWidth / 2;
      tip.style.left = `${Math.max(8, Math.min(left, root.clientWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${box.top > tip.offsetHeight + 12 ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
    });
    point.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();

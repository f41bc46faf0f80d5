// The data of the page, and the explanations that appear on hover, tap and focus.
"use strict";

const reportData = JSON.parse(document.getElementById("report-data").textContent);

(() => {
  const MARGIN = 8; // px between the tip, its term and the edges of the window
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  let explained = null;
  let shownAt = 0; // px from the top of the window to the term

  function show(element) {
    hide();
    explained = element;
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    element.setAttribute("aria-describedby", tip.id);
    const word = element.getBoundingClientRect();
    shownAt = word.top;
    const left = word.left + word.width / 2 - tip.offsetWidth / 2;
    const above = word.top - tip.offsetHeight - MARGIN;
    const furthest = document.documentElement.clientWidth - tip.offsetWidth - MARGIN;
    tip.style.left = `${Math.max(MARGIN, Math.min(left, furthest))}px`;
    tip.style.top = `${above > MARGIN ? above : word.bottom + MARGIN}px`;
  }

  function hide() {
    tip.hidden = true;
    explained?.removeAttribute("aria-describedby");
    explained = null;
  }

  // The first tap on a term with a link explains it; the second follows the link.
  let explainedByTap = false;
  document.addEventListener("click", (event) => {
    if (explainedByTap && event.target.closest?.("a[data-tip]")) event.preventDefault();
    explainedByTap = false;
  });

  const withTip = (event) => event.target.closest?.("[data-tip]");
  for (const begin of ["pointerover", "focusin"]) {
    document.addEventListener(begin, (event) => {
      const element = withTip(event);
      if (!element || element === explained) return;
      show(element);
      explainedByTap = event.pointerType === "touch";
    });
  }
  for (const end of ["pointerout", "focusout"]) {
    document.addEventListener(end, (event) => {
      if (withTip(event) && event.pointerType !== "touch") hide();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  // Hide only if the term has moved: the event of the scrolling that brought it into view comes late.
  const hideIfMoved = () => explained && Math.abs(explained.getBoundingClientRect().top - shownAt) > 1 && hide();
  window.addEventListener("scroll", hideIfMoved, { passive: true });
})();

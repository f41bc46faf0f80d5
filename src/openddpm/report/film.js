// The film strip: previews from the first to the last, by slider, arrow keys or the play button.
"use strict";

(() => {
  const FRAME_MS = 180;
  const { weights } = reportData;
  const byId = (id) => document.getElementById(id);
  const frames = reportData.frames;

  // The picture beside the verdict is the latest one of the weights that it judges; the page has it already.
  function showLatest() {
    const picture = byId("verdict-picture");
    const measured = weights.filter((one) => one.name === reportData.measured);
    const shown = [...measured, ...weights].find((one) => byId(`film-${one.name}`)?.hidden === false);
    if (!picture || !shown) return;
    picture.src = byId(`film-${shown.name}`).src;
    byId("verdict-weights").textContent = `${shown.label} weights`;
  }

  function showFrame(index) {
    const frame = frames[index];
    for (const { name } of weights) {
      const image = byId(`film-${name}`);
      if (!image) continue;
      const picture = frame.pictures[name];
      image.hidden = !picture;
      if (picture) image.src = picture;
      const loss = frame.losses[name];
      byId(`film-loss-${name}`).textContent = loss ? `held-out loss ${loss}` : "";
    }
    byId("film-label").textContent = frame.label;
    byId("film-slider").setAttribute("aria-valuetext", frame.label);
  }

  function setUpPlaying(slider, button) {
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.classList.remove("playing");
    };
    const advance = () => {
      slider.value = Number(slider.value) + 1;
      showFrame(Number(slider.value));
      if (slider.value === slider.max) stop();
    };
    button.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (slider.value === slider.max) slider.value = 0;
      showFrame(Number(slider.value));
      button.classList.add("playing");
      timer = setInterval(advance, FRAME_MS);
    });
    slider.addEventListener("input", stop);
  }

  showLatest();

  const slider = byId("film-slider");
  if (!slider) return;
  slider.addEventListener("input", () => showFrame(Number(slider.value)));
  setUpPlaying(slider, byId("film-play"));
})();

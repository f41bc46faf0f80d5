// Small pictures, enlarged.
"use strict";

(() => {
  // Enlarged pixel art keeps its hard edges; reduced, it would lose whole rows that way.
  function keepPixelsHard() {
    for (const image of document.querySelectorAll(".pixel-art img")) {
      const isEnlarged = image.clientWidth * devicePixelRatio >= image.naturalWidth;
      image.style.imageRendering = isEnlarged ? "pixelated" : "auto";
    }
  }

  for (const image of document.querySelectorAll(".pixel-art img")) image.addEventListener("load", keepPixelsHard);
  window.addEventListener("resize", keepPixelsHard);
  keepPixelsHard();
})();

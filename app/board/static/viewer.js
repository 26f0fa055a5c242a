// The piece in 3D. The viewer is a megabyte: it is loaded when somebody asks for it, and not before.
(() => {
  "use strict";
  const note = (stage, text) => { stage.querySelector(".stage-note").textContent = text; };

  const close = (stage, button) => {
    const viewer = stage.querySelector("model-viewer");
    if (viewer) viewer.remove();
    stage.querySelector("img").hidden = false;
    button.textContent = button.dataset.name;
  };

  const open = async (stage, button) => {
    const said = stage.querySelector(".stage-note");
    button.dataset.name = button.textContent;
    button.disabled = true;
    note(stage, said.dataset.loading);
    const failed = () => { close(stage, button); note(stage, said.dataset.failed); button.hidden = true; };
    // It would compile a decoder, which our meshes do not need and the policy refuses.
    const decoders = window.WebAssembly;
    window.WebAssembly = undefined;
    try {
      await import(button.dataset.viewer);
    } catch { failed(); return; } finally { window.WebAssembly = decoders; button.disabled = false; }
    const viewer = document.createElement("model-viewer");
    const settings = { "camera-controls": "", "interaction-prompt": "none", "shadow-intensity": "0.7", exposure: "0.9", "camera-orbit": "35deg 65deg auto", "touch-action": "pan-y" };
    for (const [name, value] of Object.entries(settings)) viewer.setAttribute(name, value);
    viewer.setAttribute("alt", button.dataset.alt);
    // As it is, and not turned round or nearer, where motion is not wanted.
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) viewer.setAttribute("interpolation-decay", "0");
    viewer.addEventListener("load", () => note(stage, ""), { once: true });
    viewer.addEventListener("error", failed, { once: true });
    viewer.setAttribute("src", button.dataset.shows);
    stage.querySelector("img").hidden = true;
    stage.querySelector(".stage-view").append(viewer);
    button.textContent = button.dataset.back;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-shows]");
    if (!button) return;
    const stage = button.closest("[data-stage]");
    if (stage.querySelector("model-viewer")) close(stage, button); else open(stage, button);
  });

  // A picture that is gone by now: its words stand there instead, in the same room.
  document.addEventListener("error", (event) => {
    const stage = event.target.closest && event.target.closest("[data-stage]");
    if (stage && event.target.matches("img")) stage.classList.add("lost");
  }, true);
})();

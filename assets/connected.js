// Tells the console that opened this window how connecting ended. The address it is told to is the console's own origin:
// whoever else opened the window hears nothing.
const page = document.querySelector("[data-outcome]");

if (page) {
  if (window.opener) {
    const outcome = JSON.parse(page.dataset.outcome);
    window.opener.postMessage({ type: "signalbox:connected", ...outcome }, page.dataset.target);
  }
  const button = document.querySelector("button");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => window.close());
  }
}

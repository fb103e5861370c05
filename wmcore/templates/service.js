// What the page can do without: a file dropped anywhere on the form is chosen, and a test that runs is said to run.
"use strict";
const form = document.querySelector("form");
const chosen = form.elements.file;
const busy = document.getElementById("busy");

function over(event) {
  if ([...event.dataTransfer.types].includes("Files")) {
    event.preventDefault();
    form.classList.add("over");
  }
}
form.addEventListener("dragover", over);
form.addEventListener("dragleave", () => form.classList.remove("over"));
form.addEventListener("drop", (event) => {
  form.classList.remove("over");
  if (event.dataTransfer.files.length) {
    event.preventDefault();
    chosen.files = event.dataTransfer.files;
    busy.textContent = `${chosen.files[0].name} is chosen.`;
    form.querySelector("button").focus();
  }
});

let sent = false;
form.addEventListener("submit", (event) => {
  if (sent) {
    event.preventDefault();
  } else if (form.elements.text.value || chosen.files.length) {
    sent = true;
    form.setAttribute("aria-busy", "true");
    busy.textContent = "Testing the text. A long one takes a while.";
  }
});
// Back in the history, the page may be shown as it was left.
addEventListener("pageshow", () => {
  sent = false;
  form.removeAttribute("aria-busy");
  busy.textContent = "";
});

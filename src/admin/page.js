// Takes a new page every few seconds and shows its main part; says so when edgehold does not answer.
const seen = document.getElementById("seen");
let last = Date.now();
async function refresh() {
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(8000) });
    if (!answer.ok) throw new Error("it answers " + answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(document.adoptNode(page.querySelector("main")));
    document.title = page.title;
    last = Date.now();
    seen.textContent = "updates every 5 seconds";
    seen.className = "dim";
  } catch (error) {
    seen.textContent = "no answer from edgehold for " + Math.round((Date.now() - last) / 1000) + " s: this is what it said before";
    seen.className = "bad";
  }
  setTimeout(refresh, 5000);
}
seen.textContent = "updates every 5 seconds";
setTimeout(refresh, 5000);

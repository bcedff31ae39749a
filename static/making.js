// Asks how far a new organization is, until it is ready.
const place = document.getElementById("making");
const bar = place.querySelector("progress");
const said = place.querySelector("[role=status]");
const again = document.getElementById("again");

async function ask() {
  try {
    const answer = await fetch(`${place.dataset.address}?as=json`, { headers: { Accept: "application/json" } });
    const { ready, working, percent } = await answer.json();
    if (ready) {
      location.replace(place.dataset.done);
      return;
    }
    bar.value = percent;
    said.textContent = working ? `${percent}% done` : "Waiting for a worker";
    again.hidden = working;
  } catch {
    said.textContent = "The platform does not answer; asking again";
  }
  setTimeout(ask, 1000);
}
setTimeout(ask, 600);

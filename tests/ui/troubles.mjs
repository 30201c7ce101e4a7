// What the interface shows when something is wrong, and to somebody who may only look; says on standard output what it saw, as JSON.
//
//     TAPELOOP_UI_TOOLS=DIR troubles.mjs URL PASSWORD DIRECTORY
//
// The ring "demo" records; of its disks 2 is missing, and 3 is another ring's. There is a user "viewer" with the password of the
// admin. Loss, disks that hang and lamps are made up on the way to the browser: no machine that runs tests has them at hand.
import { begin, PAGES } from "./browser.mjs";

const [url, password, directory] = process.argv.slice(2);
const seen = { overflow: {} };
const { browser, page, shot, dialog, button, open, row, overflow, log_in } = await begin(directory, seen);

async function both(name) {
  await shot(name);
  await page.setViewportSize({ width: 390, height: 800 });
  await page.waitForTimeout(300);
  await shot(`narrow-${name}`);
  seen.overflow[name] = await overflow();
  await page.setViewportSize({ width: 1280, height: 900 });
}

// Answers to GET of a path, changed by `change`, until the function that is returned is called.
async function changed(path, change) {
  const handler = async (route) => {
    const response = await route.fetch();
    const answer = await response.json();
    change(answer);
    await route.fulfill({ response, json: answer });
  };
  await page.route(path, handler);
  return () => page.unroute(path, handler);
}

await page.goto(url);
await log_in("admin", password);
await page.getByText("Oldest packet").waitFor();

// ---- disks that are away
await page.getByText("Degraded: fewer disks or copies").waitFor();
await both("degraded");
await button("See cluster configuration").click();
await page.getByRole("heading", { name: "Missing disks" }).waitFor();
await row(/disk2.*missing/).waitFor();
await row(/disk3.*something else is in its place/).waitFor();
await both("missing-disks");
await row(/disk2/).getByRole("button", { name: "Remove from cluster" }).click();
await dialog().getByText("It is not waited for any more.").waitFor();
await shot("remove-missing-disk");
await button("Cancel", dialog()).click();

// ---- a lamp in an enclosure
const asked = [];
let as_it_is = await changed(/\/api\/v1\/disks\?/, (answer) => {
  for (const disk of answer.disks) Object.assign(disk, { enclosure: "0:0:8:0", enclosure_slot: `0${disk.number}`, stable_path: `/dev/disk/by-id/wwn-${disk.number}` });
});
await page.route(/\/locate$/, async (route) => {
  asked.push(route.request().postDataJSON().on);
  await route.fulfill({ status: 204 });
});
await row(/0:0:8:0, slot 01/).waitFor();
await button("Locator of disk 1").click();
await page.locator(".lamp.lit").waitFor();
seen.lit = await button("Locator of disk 1").getAttribute("aria-pressed");
await both("locator-lit");
await button("Locator of disk 1").click();
await page.locator(".lamp.lit").waitFor({ state: "detached" });
seen.asked = asked;
await as_it_is();
await page.unroute(/\/locate$/);

// ---- packets are lost, by two causes
await open("Ring buffer");
let lost = 0;
as_it_is = await changed(/\/api\/v1\/overview$/, (answer) => {
  lost += 5000;
  const { account } = answer.rings[0];
  account.dropped_kernel += lost;
  account.dropped_queue += 3 * lost;
  account.seen += 4 * lost;
});
await page.getByRole("alert").filter({ hasText: "packets a second dropped by the kernel" }).waitFor();
await page.getByRole("alert").filter({ hasText: "because the disks are too slow" }).waitFor();
await both("loss");
await as_it_is();
await page.getByRole("alert").filter({ hasText: "packets a second dropped" }).first().waitFor({ state: "detached" }); // and it goes, when it is over

// ---- packets come, and nothing is written
let frozen = null;
as_it_is = await changed(/\/api\/v1\/overview$/, (answer) => {
  const status = answer.rings[0];
  frozen = frozen || { stored_bytes: status.stored_bytes, stored: status.account.stored };
  status.account.in_flight += status.account.stored - frozen.stored;
  status.stored_bytes = frozen.stored_bytes;
  status.account.stored = frozen.stored;
  status.buffers.free = 0;
});
await page.getByRole("alert").filter({ hasText: /Nothing has been written for \d+ s/ }).waitFor();
seen.stalled = await page.getByRole("alert").filter({ hasText: "Nothing has been written" }).textContent();
await both("stalled");
await as_it_is();
await page.getByRole("alert").filter({ hasText: "Nothing has been written" }).waitFor({ state: "detached" });

// ---- the recorder does not answer
await page.route(/\/api\/v1\/overview$/, (route) => route.fulfill({ status: 503, contentType: "application/problem+json",
  body: JSON.stringify({ type: "about:blank", title: "Service Unavailable", status: 503, code: "closed", detail: "no recorder is running: start tapeloopd" }) }));
await page.getByText("no recorder is running").waitFor();
await page.locator(".state").filter({ hasText: "not known" }).waitFor(); // nothing is said that may be wrong by now
await both("no-recorder");
await page.unroute(/\/api\/v1\/overview$/);
await page.getByText("no recorder is running").waitFor({ state: "detached" });

// ---- somebody who may look, and nothing else
await button("Log out").click();
await button("Log in").waitFor();
await log_in("viewer", password);
await page.getByText("Oldest packet").waitFor();
seen.viewer = { pages: await page.getByRole("navigation", { name: "pages" }).getByRole("link").allTextContents(), buttons: {} };
for (const name of PAGES.filter((name) => seen.viewer.pages.some((link) => link.startsWith(name)))) {
  await open(name);
  await page.waitForTimeout(500);
  seen.viewer.buttons[name] = await page.locator("main button:visible").allTextContents();
  await both(`viewer-${name.replaceAll(" ", "-")}`);
}
await browser.close();
console.log(JSON.stringify(seen));

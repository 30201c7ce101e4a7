// Uses the interface as a person would, in Debian's chromium, and says on standard output what it saw, as JSON.
//
//     TAPELOOP_UI_TOOLS=DIR walk.mjs URL PASSWORD DISKS DIRECTORY
//
// Disks are made as DISKS1, DISKS2 ...; screenshots and downloads go into DIRECTORY. Any error of a script, or of the content
// security policy, is a failure.
import { join } from "node:path";
import { begin, PAGES } from "./browser.mjs";

const [url, oneTime, disks, directory] = process.argv.slice(2);
const password = "correct horse battery";
const seen = { overflow: {} };
const { browser, page, shot, dialog, button, open, done, banner, row, overflow, log_in } = await begin(directory, seen);
page.on("requestfinished", async (request) => {
  const sizes = await request.sizes().catch(() => null);
  if (sizes && /\/(app\.(js|css)|icon\.svg)?$/.test(new URL(request.url()).pathname)) seen.bytes = (seen.bytes || 0) + sizes.responseBodySize + sizes.responseHeadersSize;
});

// ---- in, with the one-time password, to the page before there is a ring
await page.goto(url);
await page.getByLabel("User").fill("admin");
await page.getByLabel("Password").fill("wrong");
await button("Log in").click();
await page.getByRole("alert").waitFor();
await shot("login");
seen.load = seen.bytes;
await log_in("admin", oneTime, password);
await page.getByText("There is no ring buffer yet.").waitFor();
await shot("no-ring");

// ---- a ring, made by the one button that there is; and a recording
await button("Create ring buffer").click();
await page.getByLabel("Name").fill("demo");
await page.getByLabel("Disk", { exact: true }).fill(`${disks}1`);
await page.getByLabel("Size").first().fill("128");
await page.getByLabel("unit").selectOption("MiB");
await shot("create-ring");
await button("Create", dialog()).click();
await page.getByText("Oldest packet").waitFor();
await button("Record").click();
await dialog().getByText("Interfaces").waitFor();
await shot("record");
await button("Record", dialog()).click();
await dialog().getByRole("alert").filter({ hasText: "choose an interface" }).waitFor();
await dialog().getByLabel("How").selectOption("generator");
await dialog().getByLabel("Packets a second").fill("3000");
await button("Record", dialog()).click();
await done();
await page.locator(".state.recording").waitFor();
await page.waitForFunction(() => /\d{2},\d{3} packets/.test(document.querySelector(".tiles").textContent));
await page.locator(".chart canvas").nth(2).waitFor();
await page.waitForTimeout(6000);
await shot("live");
seen.live = new URL(page.url()).search;

// ---- drag over the first graph: back in time, and the address says which
const box = await page.locator(".chart .u-over").first().boundingBox();
const drag = async (from, to) => {
  await page.mouse.move(box.x + box.width * from, box.y + 40);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * (from + to) / 2, box.y + 40);
  await page.mouse.move(box.x + box.width * to, box.y + 40);
  await page.mouse.up();
};
const address = () => Object.fromEntries(new URL(page.url()).searchParams);
await drag(0.9, 0.999);
await page.waitForFunction(() => new URLSearchParams(location.search).has("from"));
seen.selected = address();
await page.waitForTimeout(1000);
await shot("back-in-time");
await page.keyboard.down("Shift");
await drag(0.5, 0.7);
await page.keyboard.up("Shift");
seen.panned = address();
await page.mouse.dblclick(box.x + box.width / 2, box.y + 40);
await page.waitForTimeout(300);
seen.zoomed = address();
await page.locator(".chart").first().focus();
await page.keyboard.press("ArrowLeft");
await page.waitForTimeout(300);
seen.by_key = address();
await button("UTC").click();
await button("local time").waitFor();
await page.keyboard.press("Tab");
await button("local time").click();

// ---- packets of exactly what is selected, filtered; to the file
await page.goto(`${url}?${new URLSearchParams(seen.selected)}`);
await button("Packets").click();
await page.getByLabel("Filter", { exact: true }).fill("tcp porrt 80");
await dialog().getByRole("alert").waitFor(); // while typing
await page.getByLabel("Filter", { exact: true }).fill("tcp");
await dialog().getByText("The filter is understood").waitFor();
seen.estimate = await dialog().locator(".estimate").textContent();
await page.getByLabel("Format").selectOption("pcap");
await shot("packets");
const [download] = await Promise.all([page.waitForEvent("download"), button("Download", dialog()).click()]);
await download.saveAs(join(directory, "download.pcap"));
seen.file = download.suggestedFilename();
await open("Extractions");
await row(/tcp.*done/).waitFor();
await shot("extractions");
await page.goBack();
await button("LIVE").click();
await button("Packets").click();
await dialog().getByLabel("From how far back").selectOption("now");
await dialog().getByText("and what comes").waitFor();
await shot("packets-live");
const [following] = await Promise.all([page.waitForEvent("download"), button("Download", dialog()).click()]);
await banner("goes on until it is stopped");
await row(/live all running live [1-9]/).waitFor(); // it is on this page as long as it runs, and grows
await shot("following");
await row(/running live/).getByRole("button", { name: /^Stop extraction/ }).click();
await following.saveAs(join(directory, "followed.pcapng")); // which waits for its end
await row(/running live/).waitFor({ state: "detached" });
await open("Extractions");
await row(/live all done/).waitFor();
await open("Ring buffer");
await button("Packets").click();
await dialog().getByLabel("Go on live").uncheck();
seen.until_now = await dialog().getByLabel("From how far back").locator("option").allTextContents();
await button("Cancel", dialog()).click();
await button("Extract packet ring buffer").click();
await dialog().getByText("Everything that ring buffer").waitFor();
await page.keyboard.press("Escape");
await done();

// ---- a range that is kept under a name, and a job: watched, downloaded, deleted
await button("Packets").click();
await dialog().getByLabel("What becomes of them").selectOption("keep");
await dialog().getByRole("textbox", { name: "Name" }).fill("incident-7");
await dialog().locator("select[name=expires]").selectOption("+7d");
await shot("keep");
await button("Keep", dialog()).click();
await banner("kept as incident-7");
await button("Packets").click();
await dialog().getByLabel("What becomes of them").selectOption("job");
await button("Extract", dialog()).click();
await banner("Job 2 has begun");

// ---- in stenographer's words, checked while they are typed; without the index; and how it was found
await button("Packets").click();
await dialog().getByText("Advanced").click();
await dialog().getByLabel("The filter is written in").selectOption("steno");
await dialog().getByLabel("Filter", { exact: true }).fill("tcp and after 10 yards ago");
await dialog().getByRole("alert").filter({ hasText: "45m ago" }).waitFor();
await dialog().getByLabel("Filter", { exact: true }).fill("tcp and after 10m ago");
await dialog().getByText("The filter is understood").waitFor();
seen.meant = await dialog().locator(".estimate code").textContent();
await dialog().getByLabel("What becomes of them").selectOption("job");
await dialog().locator(".estimate code").waitFor();
await shot("packets-steno");
await button("Extract", dialog()).click();
await banner("Job 3 has begun");
await button("Packets").click();
await dialog().getByText("Advanced").click();
await dialog().getByLabel("Do not use the index").check();
await dialog().getByLabel("Filter", { exact: true }).fill("udp");
await dialog().getByLabel("What becomes of them").selectOption("job");
await button("Extract", dialog()).click();
await banner("Job 4 has begun");
await open("Extractions");
await row(/^incident-7 .* done/).waitFor();
for (const number of [2, 3, 4]) await row(new RegExp(`^${number} .* done`)).waitFor();
await shot("jobs");
seen.plans = {};
for (const number of [3, 4]) {
  await button(`How job ${number} was found`).click();
  await dialog().getByText("Packets that match").waitFor();
  seen.plans[number] = await dialog().locator(".facts").innerText();
  await shot(`how-found-${number}`);
  await button("Close", dialog()).click();
}
const [kept] = await Promise.all([page.waitForEvent("download"), row(/^incident-7/).getByRole("link", { name: "Download incident-7" }).click()]);
await kept.saveAs(join(directory, "kept.pcapng"));
seen.kept = kept.suggestedFilename();
await button("Delete incident-7").click();
await shot("delete-job");
await button("Delete", dialog()).click();
await done();
await banner("incident-7 is deleted");
await row(/^incident-7/).waitFor({ state: "detached" });
await open("Ring buffer");

// ---- the cluster: disks come, copies are made, a disk goes and comes back
await open("Cluster configuration");
for (const number of [2, 3]) {
  await button("Add to cluster").click();
  await dialog().getByLabel("Disk", { exact: true }).fill(`${disks}${number}`);
  await dialog().getByLabel("Size").first().fill("128");
  await dialog().getByLabel("unit").selectOption("MiB");
  if (number === 2) await shot("add-disk");
  await button("Add to cluster", dialog()).click();
  await done();
  await banner(`Disk ${number} `);
}
await page.getByLabel("Write redundancy level").selectOption("2");
await page.getByText("Every packet is on 2 disks").waitFor();
await button("Locator of disk 2").click();
await page.getByRole("alert").filter({ hasText: "Disk 2" }).waitFor(); // a file has no lamp
await row(/disk3/).getByRole("button", { name: "Remove from cluster" }).click();
await dialog().getByText("get their missing copies").waitFor();
await shot("remove-disk");
await button("Remove from cluster", dialog()).click();
await done();
await page.getByRole("heading", { name: "Removed disks" }).waitFor();
await shot("cluster");
await row(/disk3/).getByRole("button", { name: "Resume in cluster" }).click();
await shot("resume-disk");
await button("Resume in cluster", dialog()).click();
await done();
await banner("Disk 3 is in the cluster again");
await page.getByRole("heading", { name: "Removed disks" }).waitFor({ state: "detached" });

// ---- rules
await open("Snapshot length filter");
await page.getByText("There is no rule: every packet is kept whole.").waitFor();
await button("Create rule").click();
await dialog().getByLabel("condition", { exact: true }).selectOption("tcp port");
await dialog().getByLabel("value").fill("nonsense");
await dialog().getByLabel("Action").selectOption("l4");
await button("Create", dialog()).click();
await dialog().getByRole("alert").waitFor();
await dialog().getByLabel("value").fill("1-65535");
await shot("create-rule");
await button("Create", dialog()).click();
await done();
await row(/tcp port 1-65535 : headers l3\+l4/).waitFor();
await button("Create rule").click();
await dialog().getByLabel("value").fill("192.0.2.0/24");
await dialog().getByLabel("negate").check();
await button("And another condition", dialog()).click();
await dialog().getByLabel("condition", { exact: true }).nth(1).selectOption("udp port");
await dialog().getByLabel("value").nth(1).fill("53");
await dialog().getByLabel("bytes").fill("96");
await button("Create", dialog()).click();
await done();
await row(/2 not ip 192\.0\.2\.0\/24 and udp port 53 : snap 96/).waitFor();
await button("Move rule 2 up").click();
await row(/1 not ip 192/).waitFor();
await button("Edit rule 1").click();
await dialog().getByLabel("negate").first().uncheck();
await button("Save", dialog()).click();
await done();
await row(/1 ip 192\.0\.2\.0\/24 and udp port 53 : snap 96/).waitFor();
await row(/2 tcp port 1-65535 : headers l3\+l4 [1-9]/).waitFor(); // it counts
await shot("rules");
await button("Test on the last hour").click();
await dialog().getByText("would not be stored").waitFor();
seen.tested = await dialog().getByRole("status").textContent();
await shot("test-rules");
await button("Close", dialog()).click();
await button("Delete rule 1").click();
await button("Delete", dialog()).click();
await done();
await row(/1 tcp port/).waitFor();

// ---- interfaces, events
await open("Interfaces");
await row(/^lo /).waitFor();
if (await button("Record lo").count()) {
  await button("Record lo").click();
  await dialog().getByLabel("Snapshot length").waitFor();
  await shot("record-interface");
  await button("Cancel", dialog()).click();
}
await shot("interfaces");
await open("Events");
await row(/ring-created/).waitFor();
await page.getByLabel("severity").selectOption("error");
await page.getByText("Nothing of that kind has happened.").waitFor();
await page.getByLabel("severity").selectOption("info");
await shot("events");

// ---- users
await open("Users");
await button("Create user").click();
await dialog().getByLabel("Name").fill("guest");
await dialog().getByLabel("Role").selectOption("viewer");
const given = await dialog().getByLabel("One-time password").inputValue();
await shot("create-user");
await button("Create", dialog()).click();
await done();
await row(/guest viewer/).waitFor();
await button("Role of guest").click();
await dialog().getByLabel("Role").selectOption("analyst");
await button("Save", dialog()).click();
await row(/guest analyst/).waitFor();
await shot("users");
await button("Delete admin").click();
await button("Delete", dialog()).click();
await dialog().getByRole("alert").waitFor(); // the last admin stays
await button("Cancel", dialog()).click();
await button("admin (admin)").click();
await dialog().getByLabel("Name").fill("script");
await button("Make a token", dialog()).click();
await dialog().getByText("tl_").waitFor();
await shot("account");
await button("Delete token script").click();
await dialog().getByText("None.").waitFor();
await button("Cancel", dialog()).click();

// ---- settings; another ring, made and deleted
await open("Settings");
await page.getByLabel("flush window").fill("250ms");
await button("Save settings").click();
await banner("Kept: flush window");
await page.getByLabel("flush window").fill("nonsense");
await button("Save settings").click();
await page.getByRole("alert").filter({ hasText: "flush_window" }).waitFor();
await page.getByLabel("number of ring buffers").fill("3");
await page.getByLabel("number of ring buffers").press("Tab");
await banner("Kept: number of ring buffers");
await shot("settings");
await open("Ring buffer");
await button("Create ring buffer").click();
await page.getByLabel("Name").fill("second");
await page.getByLabel("Disk", { exact: true }).fill(`${disks}4`);
await page.getByLabel("Size").first().fill("64");
await page.getByLabel("unit").selectOption("MiB");
await button("Create", dialog()).click();
await done();
await button("second").waitFor();
await page.getByText("nothing has been recorded yet").waitFor();
await open("Settings");
await button("Delete ring buffer second").click();
await dialog().getByLabel("Type its name").fill("second");
await shot("delete-ring");
await button("Delete", dialog()).click();
await banner("Ring buffer second is deleted");

// ---- every page dark, and on a telephone: nothing sticks out
await page.emulateMedia({ colorScheme: "dark" });
for (const name of PAGES) {
  await page.setViewportSize({ width: 1280, height: 900 });
  await open(name);
  await page.waitForTimeout(400);
  await shot(`dark-${name.replaceAll(" ", "-")}`);
  seen.overflow[`${name}, wide`] = await overflow();
  await page.setViewportSize({ width: 390, height: 800 });
  await page.waitForTimeout(200);
  await shot(`narrow-${name.replaceAll(" ", "-")}`);
  seen.overflow[name] = await overflow();
}
for (const name of ["Settings", "Ring buffer"]) { // the page that is shown is in sight among the others
  await open(name);
  await page.waitForFunction((shown) => {
    const link = document.querySelector("nav [aria-current]"), place = link.getBoundingClientRect();
    return link.textContent === shown && place.left >= 0 && place.right <= innerWidth;
  }, name);
}
await button("Packets").click();
await shot("narrow-packets");
await button("Cancel", dialog()).click();
await page.setViewportSize({ width: 1280, height: 900 });

// ---- the end, and what somebody sees who may not change anything
await button("Stop recording").click();
await button("Stop recording", dialog()).click();
await page.locator(".state.idle").waitFor();
await button("Log out").click();
await button("Log in").waitFor();
await log_in("guest", given, "staple staple battery");
await page.getByText("Oldest packet").waitFor();
seen.guest = { pages: await page.getByRole("navigation", { name: "pages" }).getByRole("link").allTextContents(),
  buttons: await page.locator("main .bar button").allTextContents() };
await shot("analyst");
await browser.close();
console.log(JSON.stringify(seen));

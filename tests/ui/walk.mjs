// Uses the interface as a person would, in Debian's chromium, and says on standard output what it saw, as JSON.
//
//     TAPELOOP_UI_TOOLS=DIR walk.mjs URL PASSWORD DISK DIRECTORY
//
// Screenshots and the download go into DIRECTORY. Any error of a script, or of the content security policy, is a failure.
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.TAPELOOP_UI_TOOLS, "package.json"))("playwright-core");
const [url, oneTime, disk, directory] = process.argv.slice(2);
const password = "correct horse battery";
const seen = { errors: [] };

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
const context = await browser.newContext({ ignoreHTTPSErrors: true, acceptDownloads: true, viewport: { width: 1280, height: 900 },
  colorScheme: "light", timezoneId: "Asia/Tokyo" });
const page = await context.newPage();
page.setDefaultTimeout(120000);
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("console", (message) => {
  if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) seen.errors.push(message.text());
});
page.on("requestfinished", async (request) => {
  const sizes = await request.sizes().catch(() => null);
  if (sizes && /\/(app\.(js|css)|icon\.svg)?$/.test(new URL(request.url()).pathname)) seen.bytes = (seen.bytes || 0) + sizes.responseBodySize + sizes.responseHeadersSize;
});
const shot = (name) => page.screenshot({ path: join(directory, `${name}.png`), fullPage: true });

// In, with the one-time password, to the page before there is a ring.
await page.goto(url);
await page.getByLabel("User").fill("admin");
await page.getByLabel("Password").fill("wrong");
await page.getByRole("button", { name: "Log in" }).click();
await page.getByRole("alert").waitFor();
await shot("login");
seen.load = seen.bytes;
await page.getByLabel("Password").fill(oneTime);
await page.getByRole("button", { name: "Log in" }).click();
await page.getByLabel("Password that you were given").fill(oneTime);
await page.getByLabel("New password", { exact: true }).fill(password);
await page.getByLabel("New password again").fill(password);
await shot("new-password");
await page.getByRole("button", { name: "Set password" }).click();
await page.getByText("There is no ring buffer yet.").waitFor();
await shot("no-ring");

// A ring, made by the one button that there is.
await page.getByRole("button", { name: "Create ring buffer" }).click();
await page.getByLabel("Name").fill("demo");
await page.getByLabel("Disk", { exact: true }).fill(disk);
await page.getByLabel("Size").first().fill("128");
await page.getByLabel("unit").selectOption("MiB");
await shot("create-ring");
await page.getByRole("button", { name: "Create", exact: true }).click();
await page.getByText("Oldest packet").waitFor();
await page.getByRole("button", { name: "Record" }).click();
await page.getByRole("dialog").getByText("Interfaces").waitFor();
await shot("record");
await page.keyboard.press("Escape");
await page.getByRole("dialog").waitFor({ state: "detached" });

// Traffic: the generator's, which only the API can start.
await page.evaluate(async () => {
  const session = await (await fetch("/api/v1/session")).json();
  const answer = await fetch("/api/v1/captures", { method: "POST", body: JSON.stringify({ ring: "demo", interfaces: [], backend: "generator", generator: { packets_per_s: 3000, seed: 1 } }),
    headers: { "Content-Type": "application/json", "X-CSRF-Token": session.csrf_token } });
  if (!answer.ok) throw new Error(await answer.text());
});
await page.locator(".state.recording").waitFor();
await page.waitForFunction(() => /\d{2},\d{3} packets/.test(document.querySelector(".tiles").textContent));
await page.locator(".chart canvas").nth(2).waitFor();
await page.waitForTimeout(8000);
await shot("live");
seen.live = new URL(page.url()).search;

// Drag over the first graph: back in time, and the address says which.
const box = await page.locator(".chart .u-over").first().boundingBox();
const drag = async (from, to) => {
  await page.mouse.move(box.x + box.width * from, box.y + 40);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * (from + to) / 2, box.y + 40);
  await page.mouse.move(box.x + box.width * to, box.y + 40);
  await page.mouse.up();
};
await drag(0.9, 0.999);
await page.waitForFunction(() => new URLSearchParams(location.search).has("from"));
const address = () => Object.fromEntries(new URL(page.url()).searchParams);
seen.selected = address();
await page.waitForTimeout(1500);
await shot("back-in-time");
await page.keyboard.down("Shift");
await drag(0.5, 0.7);
await page.keyboard.up("Shift");
seen.panned = address();
await page.mouse.dblclick(box.x + box.width / 2, box.y + 40);
await page.waitForTimeout(500);
seen.zoomed = address();
await page.getByRole("button", { name: "UTC", exact: true }).click();
await page.getByRole("button", { name: "local time" }).waitFor();

// Packets of exactly what is selected, filtered; to the file.
await page.goto(`${url}?${new URLSearchParams(seen.selected)}`);
await page.getByRole("button", { name: "Packets", exact: true }).click();
await page.getByLabel("Filter").fill("tcp");
await page.getByLabel("Format").selectOption("pcap");
await shot("packets");
const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
await download.saveAs(join(directory, "download.pcap"));
seen.file = download.suggestedFilename();
await page.getByRole("row", { name: /tcp.*done/ }).waitFor();
await shot("extractions");

// Dark, and on a telephone.
await page.emulateMedia({ colorScheme: "dark" });
await page.getByRole("button", { name: "LIVE", exact: true }).click();
await page.waitForTimeout(1500);
await shot("dark");
await page.setViewportSize({ width: 390, height: 800 });
await page.waitForTimeout(500);
await shot("narrow");
seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

await page.setViewportSize({ width: 1280, height: 900 });
await page.getByRole("button", { name: "Stop recording" }).click();
await page.getByRole("dialog").getByRole("button", { name: "Stop recording" }).click();
await page.locator(".state.idle").waitFor();
await page.getByRole("button", { name: "Log out" }).click();
await page.getByRole("button", { name: "Log in" }).waitFor();
await browser.close();
console.log(JSON.stringify(seen));

"""A sketch of a ROS 2 node on a served stream. It was never run: rclpy comes with ROS 2 and is not on PyPI.

    source /opt/ros/jazzy/setup.bash
    python examples/ros2_node.py --ros-args -p server:=http://127.0.0.1:8000 -p prompt:="the red cup"

Subscribes `image_raw/compressed` (sensor_msgs/CompressedImage, JPEG or PNG, sent on as it is) and `prompt`
(std_msgs/String, asked beside the stream); publishes `mask` (sensor_msgs/Image, mono16: the segment's id at each pixel)
with the image's header. The newest image counts: QoS keeps one, and the server drops what comes while it works.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from x2sam_rt.client import Client, RemoteResult


class Segmenter(Node):
    def __init__(self) -> None:
        super().__init__("x2sam_rt")
        server = self.declare_parameter("server", "http://127.0.0.1:8000").value
        prompt = self.declare_parameter("prompt", "the red cup").value
        self._stream = Client(server, token=os.environ.get("X2SAM_RT_TOKEN")).stream(prompt)
        self._headers: dict[int, object] = {}
        self._masks = self.create_publisher(Image, "mask", qos_profile_sensor_data)
        self.create_subscription(CompressedImage, "image_raw/compressed", self._send, qos_profile_sensor_data)
        self.create_subscription(String, "prompt", lambda message: self._stream.ask(message.data), 10)
        threading.Thread(target=self._receive, daemon=True).start()

    def _send(self, message: CompressedImage) -> None:
        number = self._stream.send(bytes(message.data))
        self._headers[number] = message.header

    def _receive(self) -> None:
        while True:
            result = self._stream.receive()
            for number in [one for one in self._headers if one < result.frame]:
                del self._headers[number]  # gave way
            self._masks.publish(self._message(result))

    def _message(self, result: RemoteResult) -> Image:
        height, width = result.record["size"]
        ids = np.zeros((height, width), np.uint16)
        for segment in result.segments:
            ids[segment.mask] = segment.id + 1
        return Image(
            header=self._headers.pop(result.frame),
            height=height,
            width=width,
            encoding="mono16",
            step=2 * width,
            data=ids.tobytes(),
        )


def main() -> None:
    rclpy.init()
    rclpy.spin(Segmenter())


if __name__ == "__main__":
    main()
